"""Ending from outside what a thread waits for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from ..errors import Cancelled

if TYPE_CHECKING:
    from .process import DecoderProcess

T = TypeVar("T")


class Cancellation:
    """Lets another thread end what `run` decodes in a `DecoderProcesses`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_cancelled = False
        self._process: DecoderProcess | None = None

    def run(self, work: Callable[[], T]) -> T:
        """Return `work()`."""
        _current.cancellation = self
        try:
            return work()
        finally:
            del _current.cancellation

    def cancel(self) -> None:
        """Kill the process that decodes for `run`, now and later; `run` raises `Cancelled`. Does not wait."""
        with self._lock:
            self._is_cancelled = True
            if self._process is not None:
                self._process.kill(_cancelled())

    @contextmanager
    def watch(self, process: DecoderProcess) -> Iterator[None]:
        """Inside the block, `process` decodes for `run`."""
        with self._lock:
            if self._is_cancelled:
                raise _cancelled()
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process = None


_current = threading.local()


def current_cancellation() -> Cancellation:
    """Return the one that runs this thread's work."""
    return getattr(_current, "cancellation", None) or Cancellation()


def _cancelled() -> Cancelled:
    return Cancelled("decoding was cancelled")
