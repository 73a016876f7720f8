"""A picture of any size becomes the square of pixels that the model takes.

Bit for bit as Hugging Face's `VideoLlavaImageProcessor` before it rescales and normalises (the server does those two).
All sizes are in pixels, all pixels uint8 RGB.
"""

import numpy as np
from PIL import Image, ImageOps

from .errors import MediaError


def fit(image: Image.Image, *, size: int) -> Image.Image:
    """Return `image` as RGB, `size` x `size`: the shortest edge resized to `size`, then the centre cut out."""
    # `convert` would copy an RGB image.
    resized = _resize_shortest_edge(image if image.mode == "RGB" else image.convert("RGB"), size=size)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def fit_pixels(pixels: np.ndarray, *, size: int) -> np.ndarray:
    """Return `fit` of an array uint8 [height, width, 3] as an array."""
    height, width, _ = pixels.shape
    # `Image.fromarray` is slower: it fills the picture with black first.
    image = Image.new("RGB", (width, height), None)
    image.frombytes(np.ascontiguousarray(pixels))
    return np.asarray(fit(image, size=size))


def upright(image: Image.Image) -> Image.Image:
    """Return `image` rotated by its EXIF data."""
    return ImageOps.exif_transpose(image)


def check_pixels(pixels: np.ndarray, shape: tuple[int | str, ...], *, source: str) -> None:
    """Raise MediaError unless `pixels` is uint8 of `shape`; a word in `shape` is any size above 0."""
    fits = len(pixels.shape) == len(shape) and all(
        actual == expected if isinstance(expected, int) else actual > 0
        for actual, expected in zip(pixels.shape, shape, strict=True)
    )
    if pixels.dtype != np.uint8 or not fits:
        expected = f"uint8[{', '.join(map(str, shape))}]"
        raise MediaError(f"{source}: expected pixels {expected}, got {describe(pixels)}", source=source)


def describe(pixels: np.ndarray) -> str:
    """Return type and shape, such as "uint8[8, 224, 224, 3]"."""
    return f"{pixels.dtype}{list(pixels.shape)}"


def _resize_shortest_edge(image: Image.Image, *, size: int) -> Image.Image:
    short, long = sorted(image.size)
    long_resized = int(size * long / short)
    landscape = image.width >= image.height
    new_size = (long_resized, size) if landscape else (size, long_resized)
    return image.resize(new_size, Image.Resampling.BICUBIC)
