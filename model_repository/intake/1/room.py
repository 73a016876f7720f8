"""Whether there is room for one more request, asked before the encoders run for one that would be refused after.

The language model knows its own requests, this step those that it let pass and that are still in the encoders.
"""

from collections.abc import Callable, Iterable

# One that fails in an encoder never arrives: it is given up after this time.
_LOST_AFTER_SECONDS = 60.0
# A server that is full refuses by the hundred, without asking anew each time.
_REFUSAL_HOLDS_SECONDS = 0.1

Ask = Callable[[int], tuple[str, Iterable[float]]]
"""Tells the language model how many requests are on their way to it; returns why it would take no more, "" if it
would, and which have arrived since it was last asked."""


class Unavailable(Exception):
    """Not now; `str()` begins with the code, as streamed errors carry none of their own."""

    def __str__(self) -> str:
        text = super().__str__()
        return text if text.startswith("UNAVAILABLE: ") else f"UNAVAILABLE: {text}"


class Room:
    """Counts requests by the moment they came, in seconds of this machine's monotonic clock."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._coming: set[float] = set()
        self._refusal = ""
        self._refused_until = 0.0

    def enter(self, received_seconds: float) -> None:
        """Let a request pass. Raises Unavailable."""
        if received_seconds >= self._refused_until:
            self._refusal = self._ask_anew(received_seconds)
        if self._refusal:
            raise Unavailable(self._refusal)
        self._coming.add(received_seconds)

    def _ask_anew(self, now: float) -> str:
        self._coming = {came for came in self._coming if now - came < _LOST_AFTER_SECONDS}
        refusal, arrived = self._ask(len(self._coming))
        self._coming.difference_update(arrived)
        if refusal:
            self._refused_until = now + _REFUSAL_HOLDS_SECONDS
        return refusal
