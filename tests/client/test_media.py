"""Files become clips and arrays, or an error that says why not."""

from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.heic import write_heic
from support.videos import picture
from video_llava_client import (
    Clip,
    ClipInfo,
    MediaError,
    MediaLimits,
    MediaNotFound,
    MediaTooLarge,
    NoFrames,
    OptionError,
    UnreadableMedia,
    is_image,
    load_image,
)
from video_llava_client.clip import as_videos
from video_llava_client.images import as_images, load_images
from video_llava_client.loading import Loading
from video_llava_client.pixels import fit
from video_llava_client.window import Window

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
INFO = ClipInfo("clip.mp4", tuple(range(8)), (0.0,) * 8)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_clip_says_which_frames_it_holds(bikes):
    clip = Clip.load(bikes, size=56)
    assert clip.frames.shape == (8, 56, 56, 3)
    assert clip.info == ClipInfo(
        source=str(bikes),
        indices=(0, 31, 62, 93, 125, 156, 187, 218),
        pts_seconds=(0.0, 1.24, 2.48, 3.72, 5.0, 6.24, 7.48, 8.72),
        num_frames=250,
        duration_seconds=10.0,
        warnings=(),
    )
    assert repr(clip) == f"Clip(frames=uint8[8, 56, 56, 3], source='{bikes}')"


def test_clips_of_another_size_are_fitted_and_others_left_alone():
    loading = Loading()
    options: Any = {"size": 32, "window": Window(), "loading": loading}
    fitted = Clip.load_window(Clip(np.stack([PIXELS] * 8), INFO), **options)
    assert np.array_equal(fitted.frames[7], np.asarray(fit(Image.fromarray(PIXELS), size=32)))
    assert Clip.load_window(fitted, **options) is fitted
    assert loading.stopwatch.seconds["decode"] == 0 < loading.stopwatch.seconds["preprocess"]


@pytest.mark.parametrize("num_frames", [1, 5, 8, 30])
def test_frames_that_the_caller_decoded(num_frames):
    frames = [np.roll(PIXELS, index, axis=0) for index in range(num_frames)]
    clips = [Clip.load(frames, size=32), Clip.load(np.stack(frames), size=32)]
    indices = tuple(index * num_frames // 8 for index in range(8))
    for clip in clips:
        assert clip.info == ClipInfo("frames", indices, (None,) * 8, num_frames=num_frames)
        for frame, index in zip(clip.frames, indices, strict=True):
            assert np.array_equal(frame, np.asarray(fit(Image.fromarray(frames[index]), size=32)))


def test_frames_of_different_sizes():
    assert Clip.load([PIXELS, PIXELS[:30]], size=32).frames.shape == (8, 32, 32, 3)


def test_a_part_of_a_video(bikes):
    clip = Clip.load(bikes, size=56, start_seconds=2, end_seconds=4)
    assert clip.info.indices == tuple(50 + index * 50 // 8 for index in range(8))
    assert clip.info.pts_seconds[0] == 2.0
    assert clip.info.num_frames == 250
    assert Clip.load(bikes, size=56, start_seconds=5).info.indices[0] == 125
    assert set(Clip.load(bikes, size=56, start_seconds=2, end_seconds=2.01).info.indices) == {50}


def test_a_part_counts_from_the_first_frame(write_video, tmp_path):
    path = write_video(tmp_path / "stream.ts", 100, g="10", bf="2")
    clip = Clip.load(path, size=32, start_seconds=2)
    assert clip.info.indices[0] == 50
    first = Clip.load(path, size=32).info.pts_seconds[0]
    assert first is not None
    assert clip.info.pts_seconds[0] == pytest.approx(2 + first)


RGB = r"expected pixels uint8\[height, width, 3\], got"


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda: Clip(np.zeros((7, 4, 4, 3), np.uint8), INFO),
            MediaError,
            r"uint8\[8, height, width, 3\], got uint8\[7",
        ),
        (lambda: Clip(np.zeros((8, 4, 4, 3), np.float32), INFO), MediaError, r"height, width, 3\], got float32"),
        (lambda: ClipInfo("clip.mp4", (0,), ()), MediaError, "expected 1 pts_seconds, one for each frame, got 0"),
        (lambda: Clip.load([], size=32), NoFrames, "frames: there are none: give at least one"),
        (lambda: Clip.load(PIXELS.transpose(2, 0, 1), size=32), MediaError, rf"frames\[0\]: {RGB} uint8\[60, 80\]"),
        (lambda: load_images([PIXELS / 255], size=32, loading=Loading()), MediaError, rf"{RGB} float64\[60, 80, 3\]"),
        (
            lambda: Clip.load([PIXELS], size=32, start_seconds=1),
            OptionError,
            "start_seconds and end_seconds need a file",
        ),
        (lambda: Clip.load("x" * 300, size=32), MediaNotFound, "file name too long: check the name"),
        (lambda: Clip.load("nothing.mp4", size=32), MediaNotFound, r"nothing\.mp4: no such file"),
        (lambda: is_image("nothing.mp4"), MediaNotFound, r"nothing\.mp4: no such file"),
        (lambda: Clip.load(".", size=32), UnreadableMedia, "is a folder: name one file"),
        (
            lambda: load_images([b"no picture"], size=32, loading=Loading()),
            UnreadableMedia,
            "cannot be read as an image .*: give a JPEG",
        ),
        (
            lambda: load_images([b""], size=32, loading=Loading()),
            UnreadableMedia,
            "cannot be read as an image .*: give a JPEG",
        ),
        (lambda: Clip.load("x" * 90 + "/y" * 2000, size=32), MediaNotFound, "check the name"),
    ],
)
def test_what_cannot_be_used(use, error, message):
    with pytest.raises(error, match=message) as caught:
        use()
    assert len(str(caught.value)) <= 500
    assert not isinstance(caught.value, MediaNotFound) or isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("start", "end", "error", "message"),
    [
        (
            20,
            30,
            NoFrames,
            r"bikes\.mp4: no frame is shown from 20 to 30 s, the last is at 9\.96 s: give another start",
        ),
        (-1, None, OptionError, "start_seconds must be at least 0 and below end_seconds, got"),
        (2, 1, OptionError, "start_seconds must be at least 0"),
        (1, 1, OptionError, "start_seconds must be at least 0"),
        (float("nan"), None, OptionError, "start_seconds must be at least 0"),
    ],
)
def test_times_that_are_no_part(start, end, error, message, bikes):
    with pytest.raises(error, match=message):
        Clip.load(bikes, size=56, start_seconds=start, end_seconds=end)


def test_a_part_of_a_video_without_times(write_video, tmp_path):
    with pytest.raises(NoFrames, match="its frames have no times"):
        Clip.load(write_video(tmp_path / "raw.h264", 20), size=32, end_seconds=1)


def test_an_animated_webp(tmp_path):
    pictures = [Image.fromarray(np.roll(PIXELS, index, axis=1)) for index in range(11)]
    path = tmp_path / "cat.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100] * 10 + [500], lossless=True)
    clip = Clip.load(path, size=32)
    assert clip.info.indices == tuple(index * 11 // 8 for index in range(8))
    assert clip.info.pts_seconds == pytest.approx([index / 10 for index in clip.info.indices])
    assert (clip.info.num_frames, clip.info.duration_seconds) == (11, pytest.approx(1.5))
    for frame, index in zip(clip.frames, clip.info.indices, strict=True):
        assert np.array_equal(frame, np.asarray(fit(pictures[index], size=32)))
    assert Clip.load(path, size=32, start_seconds=0.5).info.indices[0] == 5


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "avif", "heic"])
def test_a_picture_is_no_video(suffix, tmp_path):
    path = tmp_path / f"photo.{suffix}"
    if suffix == "heic":
        write_heic(path, PIXELS)
    else:
        Image.fromarray(PIXELS).save(path)
    with pytest.raises(UnreadableMedia, match="is a picture, not a video: give it as an image"):
        Clip.load(path, size=32)


@pytest.mark.parametrize(
    ("source", "num_videos", "num_images"),
    [
        ("clip.mp4", 1, 1),
        (b"bytes", 1, 1),
        (PIXELS, 1, 1),
        (Image.fromarray(PIXELS), None, 1),
        (["a.mp4", "b.mp4"], 2, 2),
        (Clip(np.stack([PIXELS] * 8), INFO), 1, None),
        ((), 0, 0),
    ],
)
def test_one_and_several(source, num_videos, num_images):
    if num_videos is not None:
        assert len(as_videos(source)) == num_videos
    if num_images is not None:
        assert len(as_images(source)) == num_images


def test_images_from_files_pillow_and_arrays_are_the_same(photo):
    images = load_images([photo, str(photo), Image.fromarray(PIXELS), PIXELS], size=32, loading=Loading())
    assert images.shape == (4, 32, 32, 3)
    assert all(np.array_equal(image, images[0]) for image in images)


def test_a_photo_is_turned_the_way_it_was_taken(tmp_path):
    image = Image.fromarray(PIXELS)
    exif = image.getexif()
    exif[0x0112] = 3
    image.save(tmp_path / "photo.png", exif=exif)
    turned = load_images([tmp_path / "photo.png", PIXELS[::-1, ::-1].copy()], size=32, loading=Loading())
    assert np.array_equal(turned[0], turned[1])


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_photo_in_heic_comes_whole_and_upright(brand, tmp_path):
    pixels = picture(3, 120, 90)
    path = write_heic(tmp_path / "photo.jpg", pixels, quarter_turns=1, brand=brand)
    assert is_image(path)
    for source in (path, path.read_bytes()):
        turned = load_images([source, np.rot90(pixels)], size=32, loading=Loading()).astype(int)
        assert np.abs(turned[0] - turned[1]).mean() < 2
    with pytest.raises(MediaTooLarge, match="120 is 10800 pixels, over the limit max_pixels=9000"):
        load_image(path, size=32, limits=MediaLimits(max_pixels=9_000))
    path.write_bytes(path.read_bytes() + b"SEFHtrailer")
    assert (load_images([path], size=32, loading=Loading()) == turned[0]).all()
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UnreadableMedia, match=r"photo\.jpg: cannot be read as an image \(broken off: 1989 bytes"):
        load_images([path], size=32, loading=Loading())


def test_what_is_an_image_is_seen_in_the_content(photo, bikes, write_video, tmp_path):
    odd = photo.rename(tmp_path / "photo.mp4")
    still, moving = tmp_path / "still.gif", write_video(tmp_path / "cat.gif", 3, codec="gif", pix_fmt="rgb8")
    Image.fromarray(PIXELS).save(still)
    assert [is_image(path) for path in (odd, still, moving, bikes)] == [True, True, False, False]


def test_a_broken_off_image(photo):
    photo.write_bytes(photo.read_bytes()[:2000])
    with pytest.raises(UnreadableMedia, match=r"photo\.png: cannot be read as an image"):
        load_images([photo], size=32, loading=Loading())
