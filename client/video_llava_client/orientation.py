"""How the pictures of a video are turned and mirrored, by the display matrix of its first frame, as players show it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to turn and mirror a picture.

    Attributes:
        is_transposed: Whether columns become rows, before the signs are applied.
        signs: Of columns and rows: -1 reverses their order.
        rest_degrees: How far the file asks to turn on, clockwise, up to 45; pictures are turned by quarters only.
    """

    is_transposed: bool = False
    signs: tuple[int, int] = (1, 1)
    rest_degrees: float = 0.0

    @classmethod
    def of(cls, frame: VideoFrame) -> Self:
        """Return the orientation that `frame` says, by its container or by its stream."""
        from av.sidedata.sidedata import SideDataContainer

        try:
            # Not `frame.side_data`: frame and container would refer to each other, and a decoder's memory, 17 MB at
            # 1080p, would stay until Python looks for cycles.
            data = SideDataContainer(frame).get("DISPLAYMATRIX")  # pyright: ignore[reportCallIssue] (its stubs lack it)
        except ValueError:
            # PyAV does not know all that a frame can have beside it, such as EXIF. Then mirroring is not seen.
            turn = math.radians(frame.rotation)
            cosine, sine = round(65536 * math.cos(turn)), round(65536 * math.sin(turn))
            return cls.from_matrix([cosine, -sine, 0, sine, cosine])
        return cls() if data is None else cls.from_matrix(np.frombuffer(data, np.int32).tolist())

    @classmethod
    def from_matrix(cls, matrix: list[int]) -> Self:
        """Return the orientation nearest to a display matrix a b u c d v x y w: (x, y) goes to (ax + cy, bx + dy)."""
        a, b, _, c, d = matrix[:5]
        is_transposed = abs(b) + abs(c) > abs(a) + abs(d)
        column, row = (int(math.copysign(1, value)) for value in ((c, b) if is_transposed else (a, d)))
        # What is left of the matrix after the turn, which is its own inverse but for the order of the signs.
        (p, q), (r, s) = ((c, a), (d, b)) if is_transposed else ((a, c), (b, d))
        rest = math.atan2(r * column - q * row, p * column + s * row)
        return cls(is_transposed, (column, row), math.degrees(rest))

    def apply(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Return [height, width, 3] upright, a view."""
        column, row = self.signs
        return (pixels.swapaxes(0, 1) if self.is_transposed else pixels)[::row, ::column]
