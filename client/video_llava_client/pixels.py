"""From a picture of any size to the square of pixels that the model takes.

Bit for bit what Hugging Face's `VideoLlavaImageProcessor` does before it rescales and normalises (the server
does those two). All sizes are in pixels, all pixels uint8 RGB.
"""

from __future__ import annotations

from PIL import Image, ImageOps


def fit(image: Image.Image, *, size: int) -> Image.Image:
    """Return `image` as RGB, `size` x `size`: the shortest edge resized to `size`, then the centre cut out."""
    resized = _resize_shortest_edge(image.convert("RGB"), size=size)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def upright(image: Image.Image) -> Image.Image:
    """Return `image` turned the way its EXIF data says it was taken."""
    return ImageOps.exif_transpose(image)


def _resize_shortest_edge(image: Image.Image, *, size: int) -> Image.Image:
    short, long = sorted(image.size)
    long_resized = int(size * long / short)
    landscape = image.width >= image.height
    new_size = (long_resized, size) if landscape else (size, long_resized)
    return image.resize(new_size, Image.Resampling.BICUBIC)
