"""Asks the questions of a workload, so many sessions at a time, and takes the times."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from .plan import Plan
from .records import Answered, Run
from .usage import Usage
from .workloads import Question, Session, Workbook, Workload, frames_of

Mark = Callable[[int], None]
"""To be called with the number of tokens whenever some have come."""
Ask = Callable[[Question, int, Mark], Coroutine[Any, Any, Mapping[str, float]]]
"""Asks a question for so many tokens; returns the stages' seconds that the contestant knows."""

QUESTION_TIMEOUT_SECONDS = 300.0


class Stopwatch:
    """Times of one answer."""

    def __init__(self, run_started: float, turn: int) -> None:
        self._run_started = run_started
        self._turn = turn
        self._asked = time.perf_counter()
        self._first = self._last = 0.0
        self._num_tokens = 0
        self._gaps: list[float] = []

    def mark(self, num_tokens: int) -> None:
        """Note that tokens have come."""
        if num_tokens:
            now = time.perf_counter()
            if self._first:
                self._gaps.append(now - self._last)
            self._first, self._last = self._first or now, now
            self._num_tokens += num_tokens

    def answered(self, stages: Mapping[str, float], *, expected_tokens: int) -> Answered:
        """The record. Raises RuntimeError for an answer of another length, which would be no fair comparison."""
        if self._num_tokens != expected_tokens:
            raise RuntimeError(f"an answer has {self._num_tokens} tokens, expected {expected_tokens}")
        return Answered(
            asked_seconds=self._asked - self._run_started,
            first_token_seconds=self._first - self._asked,
            total_seconds=self._last - self._asked,
            num_tokens=self._num_tokens,
            turn=self._turn,
            stages=dict(stages),
            gaps=self._gaps,
        )


async def run_all(contestant: str, ask: Ask, plan: Plan, *, pid: int) -> list[Run]:
    """Run the warm-up, which is not counted, and all workloads of a contestant."""
    book = Workbook(plan.num_tokens)
    await _run_load(contestant, book.make(plan.warm_up), ask, pid=pid)
    runs: list[Run] = []
    for size in plan.sizes_of(contestant):
        runs.append(await _run_load(contestant, book.make(size), ask, pid=pid))
        plan.on_run(runs[-1])
    return runs


async def _run_load(contestant: str, workload: Workload, ask: Ask, *, pid: int) -> Run:
    """Run `workload`; `pid` is the root of the processes that answer."""
    started = time.perf_counter()
    with Usage(pid) as usage:
        answers = await _ask_all(workload, ask, started)
        seconds = time.perf_counter() - started
    return Run(
        contestant=contestant,
        workload=workload.name,
        concurrency=workload.concurrency,
        seconds=seconds,
        answers=tuple(answers),
        **usage.figures(),
    )


async def _ask_all(workload: Workload, ask: Ask, started: float) -> list[Answered]:
    places = asyncio.Semaphore(workload.concurrency)
    answers: list[Answered] = []

    async def run_session(session: Session) -> None:
        async with places:
            if (clip := session[0].clip) is not None:
                frames_of(clip)  # made before the clock runs, and kept
            for turn, question in enumerate(session):
                watch = Stopwatch(started, turn)
                async with asyncio.timeout(QUESTION_TIMEOUT_SECONDS):
                    stages = await ask(question, workload.num_tokens, watch.mark)
                answers.append(watch.answered(stages, expected_tokens=workload.num_tokens))

    async with asyncio.TaskGroup() as group:
        for session in workload.sessions:
            group.create_task(run_session(session))
    return answers
