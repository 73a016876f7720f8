"""Bounded waiting."""

import time
from collections.abc import Callable

WAIT_SECONDS = 60


def wait_until(condition: Callable[[], bool]) -> None:
    """Ask every 0.1 s until `condition` holds; an address that does not answer yet counts as no."""
    ends = time.monotonic() + WAIT_SECONDS
    while not _holds(condition):
        assert time.monotonic() < ends, f"not within {WAIT_SECONDS} s"
        time.sleep(0.1)


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except OSError:
        return False
