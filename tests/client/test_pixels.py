"""Preprocessing is Hugging Face's, bit for bit."""

import numpy as np
import pytest
from PIL import Image
from support.videos import decode_all
from transformers import VideoLlavaImageProcessor
from video_llava_client import Clip
from video_llava_client.pixels import fit, fit_pixels, upright

SIZES = [(640, 272), (272, 640), (224, 224), (100, 100), (225, 224), (333, 517), (1280, 721), (31, 200), (1, 5)]


def noise(width, height, channels=3):
    return np.random.default_rng(width * height).integers(0, 256, (height, width, channels), np.uint8)


def hugging_face(image, size):
    processor = VideoLlavaImageProcessor(
        do_rescale=False,
        do_normalize=False,
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
    )
    pixels = processor(image, return_tensors="np")["pixel_values_images"][0]
    return pixels.transpose(1, 2, 0)


@pytest.mark.parametrize("size", [224, 56])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_fit_is_hugging_faces(width, height, size):
    image = Image.fromarray(noise(width, height))
    fitted = np.asarray(fit(image, size=size))
    assert fitted.dtype == np.uint8
    assert np.array_equal(fitted, hugging_face(image, size))


@pytest.mark.parametrize(("width", "height"), SIZES[:-1])  # transformers takes 1 x 5 pixels for one channel
def test_arrays_are_fitted_as_pictures_are(width, height):
    pixels = noise(width, height)
    for turned in (pixels, np.rot90(pixels), pixels[:, ::-1]):
        assert np.array_equal(fit_pixels(turned, size=56), hugging_face(Image.fromarray(np.array(turned)), 56))


@pytest.mark.parametrize(
    "options", [{}, {"size": (64, 96)}, {"rotation": 90}, {"size": (98, 64), "pix_fmt": "yuv444p"}]
)
def test_frames_of_videos_are_fitted_as_hugging_face_does_it(options, write_video, tmp_path):
    path = write_video(tmp_path / "clip.mov", 30, g="7", bf="2", **options)
    pixels, _ = decode_all(path)
    clip = Clip.load(path, size=56)
    for frame, index in zip(clip.frames, clip.info.indices, strict=True):
        assert np.array_equal(frame, hugging_face(Image.fromarray(pixels[index]), 56))


def test_what_has_the_size_already_stays_as_it_is():
    pixels = noise(56, 56)
    assert np.array_equal(np.asarray(fit(Image.fromarray(pixels), size=56)), pixels)


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_other_colours_become_rgb_as_hugging_face_does_it(mode):
    image = Image.fromarray(noise(80, 60)).convert(mode)
    assert np.array_equal(np.asarray(fit(image, size=56)), hugging_face(image, 56))


def test_upright_turns_by_exif():
    image = Image.fromarray(noise(8, 6))
    image.getexif()[0x0112] = 6
    assert np.array_equal(np.asarray(upright(image)), np.rot90(noise(8, 6), k=-1))
