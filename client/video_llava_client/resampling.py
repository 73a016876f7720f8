"""Resizing without antialiasing, as torch's `interpolate` does it with floats; the result is rounded to eight bits.

Only rows and columns that the centre crop keeps are made.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHARPNESS = -0.75  # of torch's bicubic filter


def resample(pixels: NDArray[Any], *, size: int, filter_name: str) -> NDArray[Any]:
    """Return pixels uint8 [height, width, 3] as uint8 [size, size, 3]: the shortest edge is `size`, the centre is kept.

    `filter_name`: "bilinear" or "bicubic".
    """
    height, width, _ = pixels.shape
    rows, row_weights = _taps(height, _resized(height, width, size, filter_name), size, filter_name)
    columns, column_weights = _taps(width, _resized(width, height, size, filter_name), size, filter_name)
    # One tap after the other: all at once would be several copies of the picture.
    narrow: Any = sum(pixels[index] * weight[:, None, None] for index, weight in zip(rows, row_weights, strict=True))
    result: Any = sum(narrow[:, index] * weight[:, None] for index, weight in zip(columns, column_weights, strict=True))
    return np.rint(result).clip(0, 255).astype(np.uint8)


def _resized(edge: int, other: int, size: int, filter_name: str) -> int:
    """Return the length of an edge after resizing, rounded as the original code's library for that filter does."""
    if edge <= other:
        return size
    return int(edge / other * size) if filter_name == "bilinear" else int(size * edge / other)


def _taps(num_source: int, num_resized: int, size: int, filter_name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return, for the `size` pixels in the middle of the resized edge, the source pixels and their weights.

    Both have the shape [taps, size].
    """
    first = round((num_resized - size) / 2)
    places = (np.arange(first, first + size) + 0.5) * (num_source / num_resized) - 0.5
    if filter_name == "bilinear":
        places = places.clip(0)
    before = np.floor(places)
    offset = places - before
    if filter_name == "bilinear":
        steps, weights = [0, 1], [1 - offset, offset]
    else:
        steps = [-1, 0, 1, 2]
        weights = [_outer(1 + offset), _inner(offset), _inner(1 - offset), _outer(2 - offset)]
    indices = np.stack([before + step for step in steps]).clip(0, num_source - 1).astype(int)
    return indices, np.stack(weights).astype(np.float32)


def _inner(distance: NDArray[Any]) -> NDArray[Any]:
    """Return the weight of a pixel at most 1 away."""
    return ((_SHARPNESS + 2) * distance - (_SHARPNESS + 3)) * distance**2 + 1


def _outer(distance: NDArray[Any]) -> NDArray[Any]:
    """Return the weight of a pixel from 1 to 2 away."""
    return _SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
