"""The end of a run before its input ends."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any


class Stop:
    """Ends a run early: what is in flight is answered and written, nothing else is asked.

    Args:
        grace_seconds: How long what is in flight may take; then it is given up.

    Attributes:
        is_requested: Whether the run ends.
    """

    def __init__(self, grace_seconds: float = 20.0) -> None:
        self.is_requested: bool = False
        self._grace_seconds = grace_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: Collection[asyncio.Task[None]] = ()
        self._asking: set[asyncio.Task[Any] | None] = set()

    @property
    def has_begun(self) -> bool:
        """Whether a run has begun; `request` is for that."""
        return self._loop is not None

    def watch(self, tasks: Collection[asyncio.Task[None]]) -> None:
        """Take the tasks of a run that are not done; others may join them."""
        self._loop, self._tasks = asyncio.get_running_loop(), tasks

    @contextmanager
    def asking(self) -> Iterator[None]:
        """In this block the task's question is in flight: the first request leaves it alone."""
        task = asyncio.current_task()
        self._asking.add(task)
        try:
            yield
        finally:
            self._asking.discard(task)

    def request(self) -> None:
        """End the run; the second time, give up what is in flight too. A signal's handler may call this."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)

    def _end(self) -> None:
        kept = set() if self.is_requested else self._asking
        if not self.is_requested:
            self.is_requested = True
            asyncio.get_running_loop().call_later(self._grace_seconds, self._end)
        for task in self._tasks:
            if task not in kept:
                task.cancel()
