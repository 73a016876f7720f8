"""Restarts a server whose processes have died, with exponential back-off."""

import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from ._errors import ServeError, ServerDiedError
from ._server import LocalServer

_FIRST_DELAY_SECONDS, _MAX_DELAY_SECONDS = 1.0, 60.0
# After so long without a death the back-off starts anew.
_STABLE_AFTER_SECONDS = 300.0


def supervise(server: LocalServer, *, report: Callable[[str], None]) -> NoReturn:
    """Run a started server until interrupted from outside; the caller stops it then."""
    delays = _delays()
    while True:
        began = time.monotonic()
        try:
            server.wait()
        except ServerDiedError as exc:
            report(str(exc))
        if time.monotonic() - began > _STABLE_AFTER_SECONDS:
            delays = _delays()
        _restart(server, delays, report)


def _restart(server: LocalServer, delays: Iterator[float], report: Callable[[str], None]) -> None:
    for delay_seconds in delays:
        report(f"starting again in {delay_seconds:g} s")
        time.sleep(delay_seconds)
        try:
            server.start()
        except ServeError as exc:
            report(str(exc))
        else:
            return


def _delays() -> Iterator[float]:
    seconds = _FIRST_DELAY_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, _MAX_DELAY_SECONDS)
