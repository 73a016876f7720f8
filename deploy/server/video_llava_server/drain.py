"""Draining a server before its stop: it refuses new requests, and finishes those that it has.

Triton itself refuses an ensemble's further steps from SIGTERM on, which would break off running answers. So the drain
comes before SIGTERM, by the runtime folder, which the server's models watch.

A drain can be announced first: the server is not ready any more, but still takes requests. Proxies that ask its
health learn in time to send no request that would be refused.
"""

import time
from pathlib import Path

from .gate import on_the_way
from .runtime_folder import RuntimeFolder

_POLL_SECONDS = 0.25
# So many polls in a row must find nothing: between the models nobody counts a request without frames.
_NUM_EMPTY_POLLS = 2
# For the errors of requests that are ended to reach their callers.
_GRACE_SECONDS = 5.0


def announce(folder: Path, *, seconds: float) -> None:
    """Make the server whose runtime folder is `folder` say that it is not ready; block for `seconds`."""
    RuntimeFolder(folder).announce_drain()
    time.sleep(seconds)


def drain(folder: Path, *, timeout_seconds: float) -> bool:
    """Drain the server whose runtime folder is `folder`; block until nothing is in flight.

    What still runs after `timeout_seconds` is ended with an error. Returns whether nothing had to be.
    """
    runtime = RuntimeFolder(folder)
    ends_at = time.monotonic() + timeout_seconds
    runtime.begin_drain(ends_at=ends_at)
    num_empty_polls = 0
    while num_empty_polls < _NUM_EMPTY_POLLS:
        if time.monotonic() > ends_at + _GRACE_SECONDS:
            return False
        num_empty_polls = 0 if _is_busy(runtime) else num_empty_polls + 1
        time.sleep(_POLL_SECONDS)
    return time.monotonic() <= ends_at


def _is_busy(runtime: RuntimeFolder) -> bool:
    """Return whether anything is in flight, by what the models write; models that write nothing are idle."""
    tickets, occupancy = runtime.read_tickets(), runtime.read_occupancy()
    return occupancy.num_in_flight + occupancy.num_ending > 0 or bool(on_the_way(tickets, occupancy))
