"""How many lines are asked at a time, and when: what the server says decides."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from ..delta import ServerLoad
from ..errors import ServerError, Unavailable

_FIRST_WAIT_SECONDS, _MAX_WAIT_SECONDS = 0.1, 30.0
_FIRST_WIDTH, MAX_WIDTH = 2, 1024
# Of a server that does not say how busy it is.
_MAX_BLIND_WIDTH = 16
# As many lines as the server works on and a third more, which wait there: so it always has the next one, and those of
# others wait behind few.
_BACKLOG = 0.25
# Above it the engine preempts requests sooner or later, and works twice for the same answer.
_KV_CACHE_USAGE = 0.9


@dataclass
class _Round:
    """The answers to lines that were asked at the present width.

    Attributes:
        began: When the width changed, by `time.monotonic()`.
        num_answers: How many.
        num_loads: Those that say how busy the server is; the sums are of these.
        backlog: Share of the server's requests that wait.
        kv_cache_usage: Share of its KV cache in use.
        was_full: Whether as many lines as allowed were under way.
        was_refused: Whether an answer took several attempts.
    """

    began: float
    num_answers: int = 0
    num_loads: int = 0
    backlog: float = 0.0
    kv_cache_usage: float = 0.0
    was_full: bool = False
    was_refused: bool = False

    def add(self, load: ServerLoad | None, num_attempts: int) -> None:
        self.num_answers += 1
        self.was_refused |= num_attempts > 1
        if load is not None:
            self.num_loads += 1
            self.backlog += _backlog(load)
            self.kv_cache_usage += load.kv_cache_usage


class Pace:
    """Lets at most `num_allowed` lines be asked at a time: the width.

    It begins small, and changes once a round: when half as many answers have come to lines that were asked at this
    width. While the server has no backlog it doubles; then it follows the number of requests that the server works on,
    and a full server halves it. A server that cannot be reached is asked again after growing delays.

    Args:
        concurrency: The most lines at a time; None: as many as the server wants.
        patience_seconds: How long to go on while every request fails for the server's sake.
        report: Called with the error when waiting begins.
    """

    def __init__(
        self,
        concurrency: int | None,
        patience_seconds: float,
        report: Callable[[ServerError], None] = lambda _error: None,
    ) -> None:
        self._max_width = concurrency or MAX_WIDTH
        self._max_blind_width = concurrency or _MAX_BLIND_WIDTH
        self.num_allowed: int = min(_FIRST_WIDTH, self._max_width)
        self._patience_seconds = patience_seconds
        self._report = report
        self._free = asyncio.Semaphore(self.num_allowed)
        self._num_asked = 0
        self._num_excess = 0  # permits of `_free` beyond `num_allowed`, to be taken away
        self._round = _Round(time.monotonic())
        self._has_doubled = False  # for the last time
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
        self._num_asked += 1
        self._round.was_full |= self._num_asked >= self.num_allowed
        try:
            while (seconds := self._wait_ends - time.monotonic()) > 0:
                await asyncio.sleep(seconds)
            yield time.monotonic()
        finally:
            self._num_asked -= 1
            self._free.release()

    def heard(self) -> None:
        """Note that the server is there."""
        self._failing_since, self._num_waits = None, 0

    def answered(self, asked: float, load: ServerLoad | None = None, *, num_attempts: int = 1) -> None:
        """Note the answer to a line that was asked at time `asked`, and how busy the server was then, if it said so."""
        self.heard()
        if asked >= self._round.began:
            self._round.add(load, num_attempts)
            if 2 * self._round.num_answers >= self.num_allowed:
                self._allow(self._next_width(self._round))

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
                self._has_doubled = True
                self._allow(max(1, self.num_allowed // 2))
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        self._wait_began = time.monotonic()
        self._num_waits = min(self._num_waits + 1, 10)
        assert self._failing_since is not None
        # A little longer, so that not all batches return at once; but once more before patience is lost.
        last = max(self._wait_began, self._failing_since + self._patience_seconds)
        self._wait_ends = min(self._wait_began + seconds * random.uniform(1.0, 1.25), last)

    def _next_width(self, heard: _Round) -> int:
        width = self.num_allowed
        if heard.num_loads:
            wanted = self._wanted(width, heard.backlog / heard.num_loads, heard.kv_cache_usage / heard.num_loads)
        else:
            wanted = min(width + 1 if self._has_doubled else 2 * width, self._max_blind_width)
        if not heard.was_full or heard.was_refused:  # wider would be a guess
            wanted = min(wanted, width)
        return max(min(wanted, self._max_width), min(_FIRST_WIDTH, self._max_width))

    def _wanted(self, width: int, backlog: float, kv_cache_usage: float) -> int:
        self._has_doubled |= backlog > _BACKLOG
        factor = 1 / (1 - _BACKLOG) if self._has_doubled else 2
        # The one more makes the widths of several batches equal in the end.
        wanted = int(width * (1 - backlog) * factor) + 1
        return min(wanted, int(width * _KV_CACHE_USAGE / max(kv_cache_usage, 1e-3)))

    def _allow(self, number: int) -> None:
        """Begin a round of this width."""
        change = number - self.num_allowed
        self.num_allowed, self._round = number, _Round(time.monotonic(), was_full=self._num_asked >= number)
        num_kept = min(max(change, 0), self._num_excess)
        self._num_excess += max(-change, 0) - num_kept
        for _ in range(change - num_kept):
            self._free.release()


def _backlog(load: ServerLoad) -> float:
    """Return the share of the server's requests that wait. One is always being encoded."""
    num_waiting = load.num_waiting + max(0, load.num_encoding - 1)
    return num_waiting / max(1, load.num_encoding + load.num_waiting + load.num_running)
