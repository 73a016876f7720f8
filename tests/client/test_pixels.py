"""Preprocessing is Hugging Face's, bit for bit."""

import numpy as np
import pytest
from PIL import Image
from transformers import VideoLlavaImageProcessor
from video_llava_client.pixels import fit, upright

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
