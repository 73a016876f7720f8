"""How many lines are asked at a time, and when: what the server says decides."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ..errors import ServerError, Unavailable

_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS = 0.1, 30.0


class Pace:
    """Lets at most `num_allowed` lines be asked at a time.

    A full server halves that number, and is asked again after the time that it names. Each round of as many answers
    raises it by one. A server that cannot be reached is asked again after growing delays.

    Args:
        concurrency: The most lines at a time, and the number at the beginning.
        patience_seconds: How long to go on while every request fails for the server's sake.
        report: Called with the error when waiting begins.
    """

    def __init__(
        self, concurrency: int, patience_seconds: float, report: Callable[[ServerError], None] = lambda _error: None
    ) -> None:
        self.num_allowed: int = concurrency
        self._concurrency = concurrency
        self._patience_seconds = patience_seconds
        self._report = report
        self._free = asyncio.Semaphore(concurrency)
        self._num_excess = 0  # permits of `_free` beyond `num_allowed`, to be taken away
        self._num_answers = 0  # at the first attempt, since `num_allowed` changed
        self._failing_since: float | None = None
        self._num_waits = 0  # since the last answer
        self._wait_began = self._wait_ends = 0.0

    @asynccontextmanager
    async def place(self) -> AsyncIterator[float]:
        """Wait until one more line may be asked; yields the time, by `time.monotonic()`."""
        await self._free.acquire()
        while self._num_excess:
            self._num_excess -= 1
            await self._free.acquire()
        try:
            while (seconds := self._wait_ends - time.monotonic()) > 0:
                await asyncio.sleep(seconds)
            yield time.monotonic()
        finally:
            self._free.release()

    def answered(self, *, num_attempts: int = 1) -> None:
        """Note that the server has answered."""
        self._failing_since, self._num_waits = None, 0
        # One that the server refused at first says nothing for more at a time.
        self._num_answers += num_attempts == 1
        if self._num_answers >= self.num_allowed < self._concurrency:
            self._allow(self.num_allowed + 1)

    def failed(self, error: ServerError) -> None:
        """Note that a request failed for the server's sake; raise `error` if no more patience is left."""
        now = time.monotonic()
        if self._failing_since is None:
            self._failing_since = now
        if now - self._failing_since >= self._patience_seconds:
            raise error

    def refused(self, asked: float, error: ServerError) -> None:
        """Note as `failed` does that a line which was asked at time `asked` has to be asked again; slow down."""
        self.failed(error)
        if asked < self._wait_began:
            return  # it was on its way: this wait is for it, too
        if not self._num_waits:
            self._report(error)
        seconds = min(_FIRST_WAIT_SECONDS * 2**self._num_waits, _MAX_WAIT_SECONDS)
        if isinstance(error, Unavailable):
            seconds = max(seconds, error.retry_after_seconds or 0.0)
            if error.reason == "full":
                self._allow(max(1, self.num_allowed // 2))
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        self._wait_began = time.monotonic()
        self._num_waits = min(self._num_waits + 1, 10)
        assert self._failing_since is not None
        # A little longer, so that not all batches return at once; but once more before patience is lost.
        last = max(self._wait_began, self._failing_since + self._patience_seconds)
        self._wait_ends = min(self._wait_began + seconds * random.uniform(1.0, 1.25), last)

    def _allow(self, number: int) -> None:
        change = number - self.num_allowed
        self.num_allowed, self._num_answers = number, 0
        if change < 0:
            self._num_excess -= change
        elif self._num_excess:
            self._num_excess -= 1
        else:
            self._free.release()
