"""Limits of what one medium may be and cost: a file of 200 kB can take a gigabyte of memory, or an hour."""

import time
from dataclasses import dataclass, fields

from .errors import MediaTimedOut, MediaTooLarge, OptionError


@dataclass(frozen=True)
class MediaLimits:
    """What a video or an image may be and cost; None is no limit.

    | Usage | |
    |---|---|
    | `MediaLimits()` | for files from anybody |
    | `MediaLimits(timeout_seconds=5, max_pixels=1920 * 1080)` | stricter |
    | `MediaLimits(max_bytes=None)` | downloads and pipes of any length |

    Attributes:
        max_pixels: Width x height of a picture. The default allows 8K video and photos of 64 megapixels.
        max_aspect_ratio: Long edge / short edge; resizing the short edge of a thin picture makes the long one huge.
        max_duration_seconds: From the first frame to the end of the last. Sampling a long video takes little longer.
        max_bytes: Read from a pipe, an unseekable file object or a URL. Other files are not copied.
        timeout_seconds: From opening to the last decoded frame.

    Raises:
        OptionError: A limit is not above 0.
    """

    max_pixels: int | None = 2**26
    max_aspect_ratio: float | None = 50.0
    max_duration_seconds: float | None = None
    max_bytes: int | None = 2**31
    timeout_seconds: float | None = 60.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not value > 0:
                raise OptionError(f"MediaLimits: {field.name} must be above 0, or None for no limit, got {value!r}")

    def check_picture(self, width: int, height: int, *, source: str) -> None:
        """Raise MediaTooLarge if a picture of this size is too large or too thin."""
        num_pixels = width * height
        if self.max_pixels is not None and num_pixels > self.max_pixels:
            what = f"{width}x{height} is {num_pixels} pixels"
            raise _too_large(source, what, "max_pixels", self.max_pixels)
        ratio = max(width, height) / max(1, min(width, height))
        if self.max_aspect_ratio is not None and ratio > self.max_aspect_ratio:
            what = f"{width}x{height} has an aspect ratio of {ratio:.1f}"
            raise _too_large(source, what, "max_aspect_ratio", self.max_aspect_ratio)

    def check_duration(self, seconds: float | None, *, source: str) -> None:
        """Raise MediaTooLarge if a video is too long."""
        if self.max_duration_seconds is not None and seconds is not None and seconds > self.max_duration_seconds:
            raise _too_large(source, f"lasts {seconds:.1f} s", "max_duration_seconds", self.max_duration_seconds)

    def check_bytes(self, num_bytes: int, *, source: str) -> None:
        """Raise MediaTooLarge if more has been read than is allowed."""
        if self.max_bytes is not None and num_bytes > self.max_bytes:
            raise _too_large(source, "has more bytes", "max_bytes", self.max_bytes)


def _too_large(source: str, what: str, limit: str, value: float) -> MediaTooLarge:
    message = f"{source}: {what}, over the limit {limit}={value}: give a smaller one, or raise MediaLimits.{limit}"
    return MediaTooLarge(message, source=source)


class Deadline:
    """The time limit of one medium, checked between the steps of the work."""

    def __init__(self, timeout_seconds: float | None, *, source: str) -> None:
        self._timeout_seconds = timeout_seconds
        self._source = source
        self._started = time.monotonic()

    @property
    def remaining_seconds(self) -> float | None:
        """The time left, at least a millisecond so that it can be a timeout; None is unlimited."""
        if self._timeout_seconds is None:
            return None
        return max(0.001, self._started + self._timeout_seconds - time.monotonic())

    def check(self) -> None:
        """Raise MediaTimedOut if the time has passed."""
        if self._timeout_seconds is not None and time.monotonic() - self._started > self._timeout_seconds:
            raise self.error()

    def error(self) -> MediaTimedOut:
        """Return the error that says that the time has passed."""
        return MediaTimedOut(
            f"{self._source}: not decoded after {self._timeout_seconds:g} s: give a shorter or smaller one, "
            "one with more key frames, or raise MediaLimits.timeout_seconds",
            source=self._source,
        )
