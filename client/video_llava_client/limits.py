"""Limits of what one medium may be and cost: a file of 200 kB can take a gigabyte of memory, or an hour."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

from .deadline import Deadline
from .errors import Cancelled, DeadlineExceeded, MediaTimedOut, MediaTooLarge, OptionError
from .policy import SourcePolicy

T = TypeVar("T")

_ANYWHERE = SourcePolicy()
_WAIT_SECONDS = 0.25


@dataclass(frozen=True)
class MediaLimits:
    """What a video or an image may be and cost; None is no limit.

    | Usage | |
    |---|---|
    | `MediaLimits()` | for files from anybody |
    | `MediaLimits(sources=SourcePolicy.untrusted())` | for addresses from anybody |
    | `MediaLimits(timeout_seconds=5, max_pixels=1920 * 1080)` | stricter |
    | `MediaLimits(max_bytes=None)` | downloads and pipes of any length |

    Attributes:
        max_pixels: Width x height of a picture. The default allows 8K video and photos of 64 megapixels.
        max_aspect_ratio: Long edge / short edge; resizing the short edge of a thin picture makes the long one huge.
        max_duration_seconds: From the first frame to the end of the last. Sampling a long video takes little longer.
        max_bytes: Read from a pipe, an unseekable file object or a URL. Other files are not copied.
        timeout_seconds: From opening to the last decoded frame.
        sources: Where it may come from.

    Raises:
        OptionError: A limit is not above 0.
    """

    max_pixels: int | None = 2**26
    max_aspect_ratio: float | None = 50.0
    max_duration_seconds: float | None = None
    max_bytes: int | None = 2**31
    timeout_seconds: float | None = 60.0
    sources: SourcePolicy = _ANYWHERE

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "sources" and value is not None and not value > 0:
                raise OptionError(f"MediaLimits: {field.name} must be above 0, or None for no limit, got {value!r}")


class Budget:
    """The limits of one medium, with the time at which its work began.

    Attributes:
        source: The name of the medium, for messages.
        limits: What it may be and cost.
        deadline: Of the request that needs it; None: open. What comes first ends the work: this, or
            `limits.timeout_seconds`.
    """

    def __init__(self, limits: MediaLimits, *, source: str, deadline: Deadline | None = None) -> None:
        self.source = source
        self.limits = limits
        self.deadline = deadline
        self._limit_at = math.inf if limits.timeout_seconds is None else time.monotonic() + limits.timeout_seconds

    @property
    def remaining_seconds(self) -> float | None:
        """The time left, at least a millisecond so that it can be a timeout; None is unlimited."""
        return None if self._ends_at == math.inf else max(0.001, self._ends_at - time.monotonic())

    @property
    def wait_seconds(self) -> float:
        """How long to wait at once: the request may be cancelled meanwhile."""
        return min(_WAIT_SECONDS, self.remaining_seconds or _WAIT_SECONDS)

    def check_time(self) -> None:
        """Raise MediaTimedOut if the time has passed."""
        if time.monotonic() > self._ends_at:
            raise self.timed_out()

    def wait_for(self, function: Callable[[], T], *, discard: Callable[[T], object] | None = None) -> T:
        """Return what `function` returns, on another thread: what it waits for may never come.

        Args:
            function: What waits.
            discard: Gets a result that came too late.
        """
        from concurrent.futures import Future

        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(function())
            except BaseException as exc:  # noqa: BLE001 (the caller raises it)
                result.set_exception(exc)

        thread = threading.Thread(target=run, name="video-llava-wait", daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                self.check_time()
                thread.join(self.wait_seconds)
        except BaseException:
            if discard is not None:
                result.add_done_callback(lambda late: None if late.exception() else discard(late.result()))
            raise
        return result.result()

    def timed_out(self) -> MediaTimedOut | DeadlineExceeded | Cancelled:
        """Return the error that says that the time has passed, and whose time."""
        if self.deadline is not None and self.deadline.at < self._limit_at:
            return self.deadline.error(f"{self.source} is not decoded yet")
        return MediaTimedOut(
            f"{self.source}: not decoded after {self.limits.timeout_seconds:g} s: give a shorter or smaller one, "
            "one with more key frames, or raise MediaLimits.timeout_seconds",
            source=self.source,
        )

    @property
    def _ends_at(self) -> float:
        return self._limit_at if self.deadline is None else min(self._limit_at, self.deadline.at)

    def check_picture(self, width: int, height: int) -> None:
        """Raise MediaTooLarge if a picture of this size is too large or too thin."""
        self._check("max_pixels", width * height, f"{width}x{height} is {width * height} pixels")
        ratio = max(width, height) / max(1, min(width, height))
        self._check("max_aspect_ratio", ratio, f"{width}x{height} has an aspect ratio of {ratio:.1f}")

    def check_duration(self, seconds: float | None) -> None:
        """Raise MediaTooLarge if a video is too long."""
        if seconds is not None:
            self._check("max_duration_seconds", seconds, f"lasts {seconds:.1f} s")

    def check_bytes(self, num_bytes: int) -> None:
        """Raise MediaTooLarge if more has been read than is allowed."""
        self._check("max_bytes", num_bytes, "has more bytes")

    def _check(self, name: str, value: float, what: str) -> None:
        limit = getattr(self.limits, name)
        if limit is not None and value > limit:
            raise MediaTooLarge(
                f"{self.source}: {what}, over the limit {name}={limit}: give a smaller one, "
                f"or raise MediaLimits.{name}",
                source=self.source,
            )
