"""Progress of an export: a bar with size and rate while a step runs, a line when it is done."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from .shards import Advance

Report = Callable[[str], None]


class Step:
    """One step under way."""

    def __init__(self, bar: "tqdm[Any]") -> None:
        self._bar = bar
        self.num_bytes = 0

    def expect(self, total_bytes: int) -> Advance:
        """Set how many bytes are to come; returns the function that counts those that are done."""
        self._bar.reset(total_bytes)
        return self.advance

    def advance(self, num_bytes: int) -> None:
        """Count bytes that are done."""
        self.num_bytes += num_bytes
        self._bar.update(num_bytes)


class Progress:
    """Calls `report` with one line per finished step; `bars` draws a progress bar on the terminal meanwhile."""

    def __init__(self, report: Report = lambda _: None, *, bars: bool = False) -> None:
        self.report = report
        self._bars = bars

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time the block as the step `name`; a step that fails is not reported."""
        start = time.perf_counter()
        with tqdm(desc=name, unit="B", unit_scale=True, leave=False, disable=not self._bars) as bar:
            step = Step(bar)
            yield step
        self.report(format_step(name, step.num_bytes, time.perf_counter() - start))


def format_step(name: str, num_bytes: int, seconds: float) -> str:
    """Name, size, seconds and rate of a finished step as one line."""
    size = f"{num_bytes / 1e6:,.1f} MB" if num_bytes else ""
    rate = f"{num_bytes / 1e6 / seconds:,.0f} MB/s" if num_bytes else ""
    return f"{name:<16}{size:>14}{seconds:>9.1f} s{rate:>12}".rstrip()
