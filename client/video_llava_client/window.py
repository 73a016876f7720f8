"""What of a video a request is about: a part of it, or frames that are named; and which of its streams."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Self, TypedDict

from .errors import NoFrames, OptionError
from .sampling import NUM_FRAMES, sample_indices

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .conventions import Conventions

# Times are multiples of 1/90000 s and such: 2.0 must find the frame at 2.0.
_TOLERANCE_SECONDS = 1e-6


class WindowOptions(TypedDict, total=False):
    """The keyword arguments that make a `Window`, described at `Clip.load`."""

    start_seconds: float | None
    end_seconds: float | None
    frame_indices: Iterable[int] | None
    frame_seconds: Iterable[float] | None
    video_stream: int | None


@dataclass(frozen=True)
class Window:
    """The model's frames, spread over the part from `start_seconds` to before `end_seconds`, or named one by one.

    Attributes:
        start_seconds: Counted from the first frame, as all times here; None is the video's own start.
        end_seconds: None is the video's own end.
        frame_indices: The frames by their place in presentation order, from 0.
        frame_seconds: The frames by a time at which each is shown.
        video_stream: The number of the video's stream in its file; None: as players choose.
        sampling: How they are spread, as `Conventions.sampling`; no option of a caller's.
        num_chosen: How many the model sees; no option of a caller's.

    Raises:
        OptionError: They contradict each other, or name no frame.
    """

    start_seconds: float | None = None
    end_seconds: float | None = None
    frame_indices: tuple[int, ...] | None = None
    frame_seconds: tuple[float, ...] | None = None
    video_stream: int | None = None
    sampling: str = "arange"
    num_chosen: int = NUM_FRAMES

    def __post_init__(self) -> None:
        start, end = self._bounds
        if not 0 <= start < end:
            got = f"{self.start_seconds} and {self.end_seconds}"
            raise OptionError(f"start_seconds must be at least 0 and below end_seconds, got {got}")
        if sum((not self._is_unbounded, self.frame_indices is not None, self.frame_seconds is not None)) > 1:
            raise OptionError("give one of start_seconds and end_seconds, frame_indices, or frame_seconds")
        for name in ("frame_indices", "frame_seconds"):
            values = getattr(self, name)
            if values is None:
                continue
            kind: Any = Integral if name == "frame_indices" else Real
            if not all(isinstance(value, kind) and 0 <= value < math.inf for value in values):
                raise self._not_the_models_frames(name, "from 0 on, ")

    @classmethod
    def from_options(cls, options: WindowOptions | Mapping[str, Any]) -> Self:
        """Return the window of these options.

        Raises:
            TypeError: There are others among them, as Python says it of keyword arguments.
        """
        if unknown := sorted(options.keys() - WindowOptions.__annotations__.keys()):
            known = ", ".join(WindowOptions.__annotations__)
            raise TypeError(f"got unexpected keyword arguments {', '.join(unknown)}; known are {known}")
        return cls(
            options.get("start_seconds"),
            options.get("end_seconds"),
            _tuple(options.get("frame_indices")),
            _tuple(options.get("frame_seconds")),
            options.get("video_stream"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the options that make this window, as JSON can hold them."""
        options = {name: vars(self)[name] for name in WindowOptions.__annotations__}
        for name, kind in (("frame_indices", int), ("frame_seconds", float)):
            if options[name] is not None:
                options[name] = list(map(kind, options[name]))
        return options

    def __str__(self) -> str:
        start, end = self._bounds
        return f"from {start:g} s on" if end == math.inf else f"from {start:g} to {end:g} s"

    @property
    def is_whole(self) -> bool:
        """Whether nothing is said: all of the video."""
        return self == Window(sampling=self.sampling, num_chosen=self.num_chosen)

    def of_model(self, conventions: Conventions) -> Self:
        """Return the same window for a model that wants its frames so."""
        return replace(self, sampling=conventions.sampling, num_chosen=conventions.num_frames)

    @property
    def needs_times(self) -> bool:
        """Whether it can be used only where frames have times."""
        return not self._is_unbounded or self.frame_seconds is not None

    @property
    def _is_unbounded(self) -> bool:
        return self.start_seconds is None and self.end_seconds is None

    @property
    def _bounds(self) -> tuple[float, float]:
        start = 0.0 if self.start_seconds is None else self.start_seconds
        return start, math.inf if self.end_seconds is None else self.end_seconds

    def choose(self, num_frames: int, seconds: NDArray[Any], *, source: str) -> tuple[int, ...]:
        """Return the indices of the frames that the model sees.

        Args:
            num_frames: Of the whole video.
            seconds: float64 [num_frames], ascending, when each is shown; empty if not known.
            source: The video's name, for messages.
        """
        if self.needs_times and not len(seconds):
            message = f"{source}: its frames have no times, so it has no time window: convert it to MP4 first"
            raise NoFrames(message, source=source)
        for name in ("frame_indices", "frame_seconds"):
            if (values := getattr(self, name)) is not None and len(values) != self.num_chosen:
                raise self._not_the_models_frames(name)
        if self.frame_indices is not None:
            return self._named(self.frame_indices, num_frames, source)
        if self.frame_seconds is not None:
            return self._shown_at(self.frame_seconds, seconds, source)
        if self._is_unbounded:
            return self._spread(num_frames)
        start, end = (
            (seconds - seconds[0]).searchsorted([bound - _TOLERANCE_SECONDS for bound in self._bounds]).tolist()
        )
        if start == end:
            raise self._no_frame(f"no frame is shown {self}", seconds, source)
        return tuple(start + index for index in self._spread(end - start))

    def _spread(self, num_frames: int) -> tuple[int, ...]:
        return sample_indices(num_frames, self.sampling, num_chosen=self.num_chosen)

    def _not_the_models_frames(self, name: str, bounds: str = "") -> OptionError:
        values = getattr(self, name)
        given = f"{len(values)}: {str(list(values))[:100]}"
        return OptionError(f"{name} must be {self.num_chosen} numbers, the model's frames, {bounds}got {given}")

    def _named(self, indices: tuple[int, ...], num_frames: int, source: str) -> tuple[int, ...]:
        if max(indices) >= num_frames:
            message = f"{source}: has no frame {max(indices)} of frame_indices, its last is {num_frames - 1}"
            raise NoFrames(message, source=source)
        return tuple(map(int, indices))

    def _shown_at(self, times: tuple[float, ...], seconds: NDArray[Any], source: str) -> tuple[int, ...]:
        from_first = seconds - seconds[0]
        # The last frame is shown as long as a frame is on average.
        end = float(from_first[-1]) * len(seconds) / (len(seconds) - 1) if len(seconds) > 1 else math.inf
        if max(times) > end:
            raise self._no_frame(f"no frame is shown at {max(times):g} s", seconds, source)
        positions = from_first.searchsorted([time + _TOLERANCE_SECONDS for time in times], side="right") - 1
        return tuple(positions.tolist())

    def _no_frame(self, what: str, seconds: NDArray[Any], source: str) -> NoFrames:
        last = seconds[-1] - seconds[0]
        options = "start_seconds or end_seconds" if self.frame_seconds is None else "frame_seconds"
        return NoFrames(f"{source}: {what}, the last is at {last:.2f} s: give another {options}", source=source)


def _tuple(values: Iterable[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
