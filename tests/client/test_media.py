"""Files become clips and arrays, or an error that says why not."""

import numpy as np
import pytest
from PIL import Image
from video_llava_client import Clip, ClipInfo, MediaError, MediaNotFound, UnreadableMedia
from video_llava_client.media import Stopwatch, is_image, load_clips, load_images
from video_llava_client.pixels import fit

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
INFO = ClipInfo("clip.mp4", tuple(range(8)), (0.0,) * 8)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_clip_says_which_frames_it_holds(bikes):
    clip = Clip.from_file(bikes, size=56)
    assert clip.frames.shape == (8, 56, 56, 3)
    assert clip.info == ClipInfo(
        str(bikes), (0, 31, 62, 93, 125, 156, 187, 218), (0.0, 1.24, 2.48, 3.72, 5.0, 6.24, 7.48, 8.72)
    )
    assert repr(clip) == f"Clip(frames=uint8[8, 56, 56, 3], source='{bikes}')"


def test_clips_of_another_size_are_fitted_and_others_left_alone():
    frames = np.stack([PIXELS] * 8)
    stopwatch = Stopwatch()
    (fitted,) = load_clips([Clip(frames, INFO)], size=32, stopwatch=stopwatch)
    assert np.array_equal(fitted.frames[7], np.asarray(fit(Image.fromarray(PIXELS), size=32)))
    assert load_clips([fitted], size=32, stopwatch=stopwatch) == (fitted,)
    assert stopwatch.seconds["decode"] == 0 < stopwatch.seconds["preprocess"]


@pytest.mark.parametrize("frames", [np.zeros((7, 4, 4, 3), np.uint8), np.zeros((8, 4, 4, 3), np.float32)])
def test_wrong_frames_are_refused(frames):
    expected = r"clip.mp4: expected pixels uint8\[8, height, width, 3\], got (uint8\[7|float32)"
    with pytest.raises(MediaError, match=expected):
        Clip(frames, INFO)


def test_a_clips_info_speaks_of_eight_frames():
    with pytest.raises(MediaError, match="expected 8 indices, one for each frame, got 1"):
        ClipInfo("clip.mp4", (0,), (0.0,))


def test_images_from_files_pillow_and_arrays_are_the_same(photo):
    images = load_images([photo, str(photo), Image.fromarray(PIXELS), PIXELS], size=32, stopwatch=Stopwatch())
    assert images.shape == (4, 32, 32, 3)
    assert all(np.array_equal(image, images[0]) for image in images)


def test_a_photo_is_turned_the_way_it_was_taken(tmp_path):
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[0x0112] = 3
    image.save(tmp_path / "photo.png", exif=exif)
    turned = load_images([tmp_path / "photo.png", PIXELS[::-1, ::-1].copy()], size=32, stopwatch=Stopwatch())
    assert np.array_equal(turned[0], turned[1])


def test_what_is_an_image_is_seen_in_the_content(photo, bikes, write_video, tmp_path):
    odd = photo.rename(tmp_path / "photo.mp4")
    still, moving = tmp_path / "still.gif", write_video(tmp_path / "cat.gif", 3, codec="gif", pix_fmt="rgb8")
    Image.fromarray(PIXELS).save(still)
    assert [is_image(path) for path in (odd, still, moving, bikes)] == [True, True, False, False]


@pytest.mark.parametrize("load", [lambda path: Clip.from_file(path, size=32), is_image])
def test_missing_files(load, tmp_path):
    with pytest.raises(MediaNotFound, match=r"nothing\.mp4: no such file") as caught:
        load(tmp_path / "nothing.mp4")
    assert isinstance(caught.value, FileNotFoundError)
    assert caught.value.source.endswith("nothing.mp4")


def test_names_no_file_can_have():
    with pytest.raises(MediaNotFound, match="file name too long: check the name"):
        Clip.from_file("x" * 300, size=32)


def test_folders(tmp_path):
    with pytest.raises(UnreadableMedia, match="is a folder: name one file"):
        Clip.from_file(tmp_path, size=32)


@pytest.mark.parametrize("content", [b"no picture", b""])
def test_no_image(content, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableMedia, match=r"photo\.jpg: cannot be read as an image .*: give a JPEG"):
        load_images([path], size=32, stopwatch=Stopwatch())


def test_a_broken_off_image(photo):
    photo.write_bytes(photo.read_bytes()[:2000])
    with pytest.raises(UnreadableMedia, match=r"photo\.png: cannot be read as an image"):
        load_images([photo], size=32, stopwatch=Stopwatch())


def test_a_wrong_image_array():
    with pytest.raises(MediaError, match=r"expected pixels uint8\[height, width, 3\], got float64\[60, 80, 3\]"):
        load_images([PIXELS / 255], size=32, stopwatch=Stopwatch())
