"""The time by which a request must end."""

import threading
import time

from .errors import Cancelled, DeadlineExceeded


class Deadline:
    """One clock for everything that a request does, from the call to its last token; any thread may use it.

    Attributes:
        timeout_seconds: How long the request may take.
        at: When its time is over, by `time.monotonic()`.
    """

    def __init__(self, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.at: float = time.monotonic() + timeout_seconds
        self._cancelled = threading.Event()

    @property
    def remaining_seconds(self) -> float:
        """The time left, 0 if none is."""
        return max(0.0, self.at - time.monotonic())

    @property
    def is_cancelled(self) -> bool:
        """Whether the request was given up."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Give the request up: its time is over now."""
        self.at = 0.0
        self._cancelled.set()

    def sleep(self, seconds: float) -> None:
        """Wait, until it is cancelled at most."""
        self._cancelled.wait(seconds)

    def check(self) -> None:
        """Raise Cancelled or DeadlineExceeded if the time is over."""
        if not self.remaining_seconds:
            raise self.error()

    def error(self, progress: str = "") -> Cancelled | DeadlineExceeded:
        """Return the error that says why the time is over, and how far the request has come."""
        if self.is_cancelled:
            return Cancelled("the request was cancelled: its stream or its client was closed")
        so_far = f", {progress}" if progress else ""
        return DeadlineExceeded(
            f"no complete answer within timeout_seconds={self.timeout_seconds:g}{so_far}: allow more time"
        )
