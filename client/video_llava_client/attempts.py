"""How often one request is sent, and how long all of it may take."""

from __future__ import annotations

import random
import time

from .errors import InterruptedStream, ServerError, Unavailable, is_leaving
from .settings import Retry

_MAY_SUCCEED_LATER = (Unavailable, InterruptedStream)


class Attempts:
    """Counts the attempts of one request from its first; the deadline is one for all of them.

    Attributes:
        num: How many have begun.
    """

    def __init__(self, retry: Retry, *, timeout_seconds: float) -> None:
        self.num = 0
        self._retry = retry
        self._timeout_seconds = timeout_seconds
        self._deadline = 0.0

    def begin(self) -> float:
        """Count an attempt; return the seconds that are left for it."""
        if self.num == 0:
            self._deadline = time.monotonic() + self._timeout_seconds
        self.num += 1
        return max(0.0, self._deadline - time.monotonic())

    def wait_seconds(self, error: ServerError, *, at_once: bool = False) -> float:
        """Return how long to wait before the next attempt; `at_once` where another address can be tried.

        Raises:
            ServerError: `error`, if there is to be none: it will not be better later, some of the answer has come,
                or the attempts or the time are used up.
        """
        if not isinstance(error, _MAY_SUCCEED_LATER) or error.received or self._are_used_up(error):
            raise error
        seconds = 0.0 if at_once else self._pause_seconds()
        if time.monotonic() + seconds >= self._deadline:
            raise error
        return seconds

    def _are_used_up(self, error: ServerError) -> bool:
        # Until proxies and name servers know that a server is to stop they send requests there: all attempts, if the
        # choice is by the media's digest. That ends soon.
        may_go_on = is_leaving(error) and self._retry.num_attempts > 1
        return self.num >= self._retry.num_attempts and not may_go_on

    def _pause_seconds(self) -> float:
        whole = min(self._retry.first_wait_seconds * 2 ** (self.num - 1), self._retry.max_wait_seconds)
        return whole * random.uniform(0.5, 1.0)
