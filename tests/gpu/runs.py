"""The runs of one step, each on the disk as soon as it has ended: a step may be stopped in the middle of the next."""

import asyncio
import json
import time
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from bench import load
from bench.load import Ask, Mark
from bench.records import Run
from bench.workloads import Question, Workload

from .card import Card
from .plan import PATIENCE, RESULTS

_RUN_TIMEOUT_SECONDS = 90 * PATIENCE


def write_result(name: str, values: Mapping[str, Any]) -> None:
    """Write `RESULTS`/`name`.json."""
    (RESULTS / f"{name}.json").write_text(json.dumps(values), encoding="utf-8")


class Runs:
    """The runs of the step `name`, with the seconds between two pieces of an answer and the GPU's load."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._runs: list[dict[str, Any]] = []
        self.facts: dict[str, Any] = {}
        """what else the step has found"""

    def add(self, run: Run, gaps: list[float], card: Card) -> None:
        """Keep `run`."""
        self._runs.append({"run": run.to_json(), "gaps": gaps, "busy": card.busy, "peak_bytes": card.peak_bytes})
        write_result(self._name, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"runs": self._runs, **self.facts}

    def record(self) -> None:
        """From now on keep every run that a contestant of `bench` makes, but the warm-up."""
        run_load = load.run_load
        warm_up = True

        async def recorded(contestant: str, workload: Workload, ask: Ask, *, pid: int) -> Run:
            nonlocal warm_up
            gaps: list[float] = []
            with Card() as card:
                async with asyncio.timeout(_RUN_TIMEOUT_SECONDS):
                    run = await run_load(contestant, workload, _with_gaps(ask, gaps), pid=pid)
            if not warm_up:
                self.add(run, gaps, card)
            warm_up = False
            return run

        load.run_load = recorded


def _with_gaps(ask: Ask, gaps: list[float]) -> Ask:
    async def asked(question: Question, num_tokens: int, mark: Mark) -> Mapping[str, float]:
        times: list[float] = []

        def note(count: int) -> None:
            if count:
                times.append(time.perf_counter())
            mark(count)

        stages = await ask(question, num_tokens, note)
        gaps.extend(later - earlier for earlier, later in pairwise(times))
        return stages

    return asked
