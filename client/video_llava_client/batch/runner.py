"""Asks every line that has no record yet, several at a time."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..answers import Answer
from ..async_client import AsyncVideoLlava
from ..errors import InvalidRequest, ServerError, Unavailable
from .lines import Line, ask_options
from .output import OutputFile, OutputStream

MAX_UNAVAILABLE = 20  # lines in a row for which no server was available; after that the rest is not tried


@dataclass
class Counts:
    """The progress of a batch, without lines that had a record before.

    Attributes:
        num_answered: Lines with an answer.
        num_failed: Lines with an error.
        num_unavailable: Lines in a row, up to the last, for which no server was available.
        last_unavailable: The error of the last of those.
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
        """Whether lines were not tried because no server was available."""
        return self.num_unavailable >= MAX_UNAVAILABLE

    def add(self, error: Exception | None) -> None:
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
    output: OutputFile | OutputStream,
    *,
    concurrency: int,
    defaults: Mapping[str, Any],
    report: Callable[[Counts], None] = lambda _counts: None,
) -> Counts:
    """Ask every line that `output` does not know, at most `concurrency` at a time, and write a record for each.

    `defaults` are arguments of `ask` for lines that do not have them; `report` is called after each line. A line that
    fails gets a record of its error, and the others continue.
    """
    counts = Counts()

    def remaining() -> Iterator[Line]:
        for line in lines:
            if counts.gave_up:
                return
            if not output.knows(line):
                yield line

    shared = remaining()

    async def work() -> None:
        for line in shared:
            record, error = await _answer(client, line, defaults)
            output.write(record)
            counts.add(error)
            report(counts)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(work())
    except ExceptionGroup as errors:
        # An error of the output, such as a changed input: all workers get the same.
        raise errors.exceptions[0] from None
    if not counts.gave_up:
        output.finish()
    return counts


async def _answer(
    client: AsyncVideoLlava, line: Line, defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], Exception | None]:
    record: dict[str, Any] = {"line": line.number, "digest": line.digest}
    try:
        question = line.parse()
        if "id" in question:
            record["id"] = question["id"]
        answer = await client.ask(**ask_options(question, defaults))
    except Exception as exc:  # noqa: BLE001 (an unexpected error of one line must not lose the answers of others)
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
        record["retry"] = True  # not the line's fault: the next run asks it again
    return record
