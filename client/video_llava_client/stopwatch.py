"""Seconds spent on media, by stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Sums seconds by stage: "decode" finds and decodes frames; "preprocess" is what resizing, on another thread,
    takes longer than that.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"decode": 0.0, "preprocess": 0.0}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time inside the block to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started
