"""The part of a video that a request is about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .errors import NoFrames, OptionError

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Window:
    """From `start_seconds` to before `end_seconds`, counted from the first frame; None is the video's own end."""

    start_seconds: float | None = None
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        start, end = self._bounds
        if not 0 <= start < end:
            got = f"{self.start_seconds} and {self.end_seconds}"
            raise OptionError(f"start_seconds must be at least 0 and below end_seconds, got {got}")

    def __str__(self) -> str:
        start, end = self._bounds
        return f"from {start:g} s on" if end == math.inf else f"from {start:g} to {end:g} s"

    @property
    def is_whole(self) -> bool:
        """Whether this is all of the video."""
        return self.start_seconds is None and self.end_seconds is None

    @property
    def _bounds(self) -> tuple[float, float]:
        start = 0.0 if self.start_seconds is None else self.start_seconds
        return start, math.inf if self.end_seconds is None else self.end_seconds

    def select(self, num_frames: int, seconds: np.ndarray, *, source: str) -> range:
        """Return the indices of the frames in the window.

        Args:
            num_frames: Of the whole video.
            seconds: float64 [num_frames], ascending, when each is shown; empty if not known.
            source: The video's name, for messages.
        """
        if self.is_whole:
            return range(num_frames)
        if not len(seconds):
            message = f"{source}: its frames have no times, so it has no time window: convert it to MP4 first"
            raise NoFrames(message, source=source)
        # Times are multiples of 1/90000 s and such: 2.0 must find the frame at 2.0.
        from_first, bounds = seconds - seconds[0], [bound - 1e-6 for bound in self._bounds]
        chosen = range(*from_first.searchsorted(bounds).tolist())
        if not chosen:
            last = seconds[-1] - seconds[0]
            raise NoFrames(
                f"{source}: no frame is shown {self}, the last is at {last:.2f} s: give another start_seconds or "
                "end_seconds",
                source=source,
            )
        return chosen
