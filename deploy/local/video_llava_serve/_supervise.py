"""Serving until told to stop: what has died is started again, with growing pauses."""

import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from ._errors import ServeError, ServerDiedError
from ._server import LocalServer

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 60.0
# A server that lived that long was well: the next pause is the first again.
_WELL_AFTER_SECONDS = 300.0


def supervise(server: LocalServer, *, report: Callable[[str], None]) -> NoReturn:
    """Keep a started server going. Interrupt it from outside, and stop the server then."""
    pauses = _pauses()
    while True:
        began = time.monotonic()
        try:
            server.wait()
        except ServerDiedError as exc:
            report(str(exc))
        if time.monotonic() - began > _WELL_AFTER_SECONDS:
            pauses = _pauses()
        _start_again(server, pauses, report)


def _start_again(server: LocalServer, pauses: Iterator[float], report: Callable[[str], None]) -> None:
    for pause_seconds in pauses:
        report(f"starting again in {pause_seconds:g} s")
        time.sleep(pause_seconds)
        try:
            server.start()
        except ServeError as exc:
            report(str(exc))
        else:
            return


def _pauses() -> Iterator[float]:
    seconds = _FIRST_PAUSE_SECONDS
    while True:
        yield seconds
        seconds = min(2 * seconds, _LONGEST_PAUSE_SECONDS)
