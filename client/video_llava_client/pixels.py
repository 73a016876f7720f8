"""A picture of any size becomes the square of pixels that the model takes.

By default bit for bit as Hugging Face's `VideoLlavaImageProcessor` before it rescales and normalises (the server does
those two).
All sizes are in pixels, all pixels uint8 RGB.
"""

import warnings
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .errors import MediaError
from .resampling import resample


def fit(
    image: Image.Image, *, size: int, resize: str = "pillow", padding: tuple[int, int, int] | None = None
) -> Image.Image:
    """Return `image` as RGB, `size` x `size`: the shortest edge resized to `size`, then the centre cut out.

    `resize` and `padding`: as `Conventions` has them.
    """
    image = as_rgb(image)
    if padding is not None:
        image = _pad(image, padding)
    if resize != "pillow":
        return Image.fromarray(resample(np.asarray(image), size=size, filter_name=resize))
    resized = _resize_shortest_edge(image, size=size)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def _pad(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Return `image` in the middle of a square."""
    edge = max(image.size)
    square = Image.new("RGB", (edge, edge), colour)
    square.paste(image, ((edge - image.width) // 2, (edge - image.height) // 2))
    return square


def fit_pixels(pixels: NDArray[Any], *, size: int, resize: str = "pillow") -> NDArray[Any]:
    """Return `fit` of an array uint8 [height, width, 3] as an array."""
    if resize != "pillow":
        return resample(pixels, size=size, filter_name=resize)
    height, width, _ = pixels.shape
    # `Image.fromarray` is slower: it fills the picture with black first.
    image = Image.new("RGB", (width, height), None)
    image.frombytes(np.ascontiguousarray(pixels))
    return np.asarray(fit(image, size=size))


def upright(image: Image.Image) -> Image.Image:
    """Return `image` rotated by its EXIF data."""
    return ImageOps.exif_transpose(image)


def as_rgb(image: Image.Image, *, source: str = "image") -> Image.Image:
    """Return `image` in RGB, which loses alpha. Grey of more than 8 bits is scaled, as viewers do; Pillow clips it.

    16 bits are divided by 257. The range of 32 bits is a guess, which a warning says: 0 to 1 (of floats), 0 to 255 or
    0 to 65535, if all values are in it, or else from the least to the greatest value.
    """
    if image.mode == "RGB":
        return image  # `convert` would copy it
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image) / 257)
    if image.mode in ("I", "F"):
        return _grey(_scale(np.asarray(image), source))
    return image.convert("RGB")


def _grey(values: NDArray[Any]) -> Image.Image:
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8)).convert("RGB")


def _scale(values: NDArray[Any], source: str) -> NDArray[Any]:
    """Return values from 0 to 255."""
    finite = values[np.isfinite(values)].astype(float)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    limits = [1, 255, 65_535] if values.dtype.kind == "f" else [255, 65_535]
    start, end = next(((0, limit) for limit in limits if low >= 0 and high <= limit), (low, high))
    warnings.warn(
        f"{source}: pixels of 32 bits, from {low:g} to {high:g}: {start:g} is shown black and {end:g} white; "
        "the reference clips them to 0 ... 255",
        stacklevel=2,
    )
    return (np.nan_to_num(values.astype(float), posinf=high, neginf=low, nan=low) - start) * (
        255 / ((end - start) or 1)
    )


class Array(Protocol):
    """An array, or a tensor of torch or another library."""

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        ...

    def __array__(self, *arguments: Any, **options: Any) -> Any: ...


def is_array(source: object) -> TypeGuard[Array]:
    """Whether this is an `Array`."""
    return hasattr(source, "__array__") and hasattr(source, "ndim")


def is_frame(source: object) -> bool:
    """Whether this is one picture in memory: a Pillow image, or an array of other than four dimensions."""
    return isinstance(source, Image.Image) or (is_array(source) and source.ndim != 4)


def to_pixels(array: Any, *, source: str) -> NDArray[Any]:
    """Return an array or a tensor, uint8 [height, width, 3] or [3, height, width], as uint8 [height, width, 3]."""
    try:
        pixels = np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise MediaError(
            f"{source}: cannot become an array of NumPy ({exc}): convert it to uint8", source=source
        ) from exc
    if pixels.ndim == 3 and pixels.shape[0] == 3 != pixels.shape[2]:
        pixels = pixels.transpose(1, 2, 0)
    check_pixels(pixels, ("height", "width", 3), source=source)
    return pixels


def check_pixels(pixels: NDArray[Any], shape: tuple[int | str, ...], *, source: str) -> None:
    """Raise MediaError unless `pixels` is uint8 of `shape`; a word in `shape` is any size above 0."""
    fits = len(pixels.shape) == len(shape) and all(
        actual == expected if isinstance(expected, int) else actual > 0
        for actual, expected in zip(pixels.shape, shape, strict=True)
    )
    if pixels.dtype != np.uint8 or not fits:
        expected = f"uint8[{', '.join(map(str, shape))}]"
        advice = (
            ": multiply numbers from 0 to 1 by 255, round, and convert to uint8" if pixels.dtype.kind == "f" else ""
        )
        raise MediaError(f"{source}: expected pixels {expected}, got {describe(pixels)}{advice}", source=source)


def describe(pixels: NDArray[Any]) -> str:
    """Return type and shape, such as "uint8[8, 224, 224, 3]"."""
    return f"{pixels.dtype}{list(pixels.shape)}"


def _resize_shortest_edge(image: Image.Image, *, size: int) -> Image.Image:
    short, long = sorted(image.size)
    long_resized = int(size * long / short)
    landscape = image.width >= image.height
    new_size = (long_resized, size) if landscape else (size, long_resized)
    return image.resize(new_size, Image.Resampling.BICUBIC)
