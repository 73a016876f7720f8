"""Asks every line that has no record yet, several at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..answers import Answer
from ..async_client import AsyncVideoLlava
from ..errors import InvalidRequest, ServerError, Unavailable
from .journal import Output
from .lines import Line, ask_options

MAX_UNAVAILABLE = 20
"""After so many lines in a row that a server could not be reached for, or was full, the rest is not tried."""


@dataclass
class Tally:
    """How far a batch has come; lines that had their record before count nowhere.

    Attributes:
        num_answered: Lines with an answer.
        num_failed: Lines with an error.
        num_unavailable: Lines in a row, up to the last, without a server that took them.
        last_unavailable: What was said of the last of those.
    """

    num_answered: int = 0
    num_failed: int = 0
    num_unavailable: int = 0
    last_unavailable: Unavailable | None = None

    @property
    def num_done(self) -> int:
        """Lines with an answer or an error."""
        return self.num_answered + self.num_failed

    @property
    def gave_up(self) -> bool:
        """Whether lines were left because there is no server."""
        return self.num_unavailable >= MAX_UNAVAILABLE

    def count(self, error: Exception | None) -> None:
        """Count one line, with its error or its answer."""
        if error is None:
            self.num_answered += 1
        else:
            self.num_failed += 1
        if isinstance(error, Unavailable):
            self.num_unavailable += 1
            self.last_unavailable = error
        else:
            self.num_unavailable = 0


async def run(
    client: AsyncVideoLlava,
    lines: Iterable[Line],
    output: Output,
    *,
    concurrency: int,
    defaults: Mapping[str, Any],
    report: Callable[[Tally], None] = lambda _tally: None,
) -> Tally:
    """Ask every line that `output` does not know, `concurrency` at a time, and write a record for each.

    A line that cannot be asked or answered gets a record of its error, and the others go on.

    Args:
        client: Who asks.
        lines: What to ask.
        output: Where records go.
        concurrency: How many questions are under way at most.
        defaults: Arguments of `ask` for lines that do not say otherwise.
        report: Called after each line.
    """
    tally = Tally()
    left = iter(lines)

    def take_turns() -> Iterator[Line]:
        for line in left:
            if tally.gave_up:
                return
            if not output.knows(line):
                yield line

    turns = take_turns()

    async def work() -> None:
        # One iterator for all: each takes the next line when it is done with its last.
        for line in turns:
            record, error = await _answer(client, line, defaults)
            output.write(record)
            tally.count(error)
            report(tally)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except ExceptionGroup as errors:
        # Of the output, such as one of another input: what one worker meets, all do.
        raise errors.exceptions[0] from None
    if not tally.gave_up:
        output.finish()
    return tally


async def _answer(
    client: AsyncVideoLlava, line: Line, defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], Exception | None]:
    record: dict[str, Any] = {"line": line.number, "digest": line.digest}
    try:
        question = line.parse()
        if "id" in question:
            record["id"] = question["id"]
        answer = await client.ask(**ask_options(question, defaults))
    except Exception as exc:  # noqa: BLE001 (a defect met by one line must not cost the others their answers)
        return record | _failure(exc), exc
    return record | _success(answer), None


def _success(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "num_input_tokens": answer.num_input_tokens,
        "num_cached_tokens": answer.num_cached_tokens,
        "num_output_tokens": answer.num_output_tokens,
        "total_seconds": round(answer.stage_seconds.total, 6),
    }


def _failure(error: Exception) -> dict[str, Any]:
    record: dict[str, Any] = {"error": {"type": type(error).__name__, "message": str(error)}}
    if isinstance(error, ServerError) and not isinstance(error, InvalidRequest):
        # Not the line's own fault: the next run asks it again.
        record["retry"] = True
    return record
