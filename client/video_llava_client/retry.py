"""Which failed requests are sent again, how often, and after which delay."""

import math
import random
from dataclasses import dataclass

from .deadline import Deadline
from .errors import InterruptedStream, OptionError, ServerError, Unavailable, is_draining


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How often a request is sent again. Only errors that may pass (`Unavailable`, a stream that broke off) are
    retried, and only before the first token.

    | Usage | |
    |---|---|
    | `Retry()` | up to 4 attempts, about 0.25, 0.5 and 1 s apart |
    | `Retry(num_attempts=1)` | no retries |

    The delay doubles from `first_wait_seconds` up to `max_wait_seconds`; each is shortened by a random part of up to a
    half, so that many clients do not return at once. A full server that says when to return is asked no earlier.
    `timeout_seconds` bounds all attempts together. Refusals by a server that drains before its stop do not count: the
    next attempt may reach another server.
    """

    num_attempts: int = 4
    first_wait_seconds: float = 0.25
    max_wait_seconds: float = 4.0

    def __post_init__(self) -> None:
        if self.num_attempts < 1:
            raise OptionError(f"retry: num_attempts must be at least 1, got {self.num_attempts}")
        for name in ("first_wait_seconds", "max_wait_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"retry: {name} must be 0 or more and finite, got {getattr(self, name)}")


class Attempts:
    """Counts the attempts of one request; one deadline holds for all.

    Attributes:
        num: How many have begun.
    """

    def __init__(self, retry: Retry, deadline: Deadline) -> None:
        self.num = 0
        self._retry = retry
        self._deadline = deadline

    def delay_seconds(self, error: ServerError, *, at_once: bool = False) -> float:
        """Return the delay before the next attempt: 0 with `at_once`.

        Raises:
            ServerError: `error`, if there is no next attempt: it will not pass, a part of the answer has arrived, or
                the attempts or the time are used up.
        """
        may_pass = isinstance(error, Unavailable | InterruptedStream) and not error.received
        # Proxies and DNS go on sending requests to a server that drains until they notice; that takes seconds.
        is_counted = not is_draining(error) or self._retry.num_attempts == 1
        if not may_pass or (is_counted and self.num >= self._retry.num_attempts):
            raise error
        seconds = 0.0 if at_once else max(self._backoff_seconds(), _seconds_of_server(error))
        if seconds >= self._deadline.remaining_seconds:
            raise error
        return seconds

    def _backoff_seconds(self) -> float:
        longest = min(self._retry.first_wait_seconds * 2 ** (self.num - 1), self._retry.max_wait_seconds)
        return longest * random.uniform(0.5, 1.0)


def _seconds_of_server(error: ServerError) -> float:
    """Return the delay that a full server asks for, a little longer, so that not all its clients return at once."""
    return (getattr(error, "retry_after_seconds", None) or 0.0) * random.uniform(1.0, 1.25)
