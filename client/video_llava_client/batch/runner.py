"""Asks every line that has no record yet, several at a time."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..answers import Answer
from ..async_client import AsyncVideoLlava
from ..errors import (
    Cancelled,
    InterruptedStream,
    InvalidRequest,
    MediaNotFound,
    ServerError,
    Unavailable,
    VideoLlavaError,
)
from .lines import ask_options
from .pace import Pace
from .read_ahead import ReadAhead
from .rows import Record, Row, Sink
from .stop import Stop
from .storage import storage_failure
from .videos import Videos

MAX_INTERRUPTIONS = 3  # of one line's answer: the line may be what the server dies of


@dataclass
class Counts:
    """The progress of a batch.

    Attributes:
        num_read: Lines of the input that have been read.
        num_known: How many of those had a record before.
        num_answered: Lines with an answer.
        num_failed: Lines with an error.
    """

    num_read: int = 0
    num_known: int = 0
    num_answered: int = 0
    num_failed: int = 0

    @property
    def num_done(self) -> int:
        """Lines with an answer or an error."""
        return self.num_answered + self.num_failed


async def run(
    client: AsyncVideoLlava,
    rows: Iterable[Row],
    output: Sink,
    counts: Counts,
    *,
    concurrency: int,
    patience_seconds: float,
    defaults: Mapping[str, Any],
    stop: Stop | None = None,
    report: Callable[[], None] = lambda: None,
    report_waiting: Callable[[ServerError], None] = lambda _error: None,
) -> None:
    """Ask every row that `output` does not know, and write a record for each.

    Args:
        client: Whom to ask.
        rows: Read by another thread, `concurrency` rows ahead.
        output: Where the records go.
        counts: Kept up to date, also when this raises.
        concurrency: The most lines at a time; a server that is full gets fewer.
        patience_seconds: How long to go on while every request fails for the server's sake.
        defaults: Arguments of `ask` for lines that do not have them.
        stop: Ends this early; `output` is then not finished.
        report: Called after each line.
        report_waiting: Called with the error when a server begins to be waited for.

    Raises:
        ServerError: The last one, when no patience is left.
        OptionError: The input cannot be read, or is not the one that `output` answers.
        OSError: The output cannot be written.
    """
    pace, videos = Pace(concurrency, patience_seconds, report_waiting), Videos(client)
    stop = stop or Stop()

    def unknown() -> Iterator[Row]:
        for row in rows:
            counts.num_read += 1
            if output.knows(row):
                counts.num_known += 1
            else:
                yield row

    async def work() -> None:
        while not stop.is_requested and (row := await ahead.next()) is not None:
            record = await answer_row(client, row, defaults, pace, videos, stop)
            if record is None:
                return
            output.write(row, record)
            if "error" in record:
                counts.num_failed += 1
            else:
                counts.num_answered += 1
            report()

    try:
        with ReadAhead(unknown(), num_ahead=concurrency) as ahead:
            async with asyncio.TaskGroup() as group:
                stop.watch([group.create_task(work()) for _ in range(concurrency)])
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    if not stop.is_requested:
        output.finish()


async def answer_row(
    client: AsyncVideoLlava, row: Row, defaults: Mapping[str, Any], pace: Pace, videos: Videos, stop: Stop
) -> Record | None:
    """Return the record of a row, None if the run ends before it is answered.

    Raises:
        ServerError: No patience is left.
    """
    try:
        question = row.parse()
    except VideoLlavaError as exc:
        # A line without its end may be one that is still being written.
        return _failure(exc, retry=not row.is_terminated)
    known = {"id": question["id"]} if "id" in question else {}
    options: dict[str, Any] | None = None
    num_interruptions, decode_seconds = 0, 0.0
    while not stop.is_requested:
        async with pace.place() as asked:
            try:
                with stop.asking():
                    if options is None:
                        options, decode_seconds = await videos.decoded(ask_options(question, defaults))
                    answer = await client.ask(**options)
            except (Unavailable, InterruptedStream, Cancelled) as exc:  # a server that stops may cancel
                num_interruptions += not isinstance(exc, Unavailable)
                if num_interruptions == MAX_INTERRUPTIONS:
                    return known | _failure(exc, retry=True)
                pace.refused(asked, exc)
            except InvalidRequest as exc:
                pace.answered()
                return known | _failure(exc)
            except ServerError as exc:
                pace.failed(exc)
                return known | _failure(exc, retry=True)
            except Exception as exc:  # noqa: BLE001 (an unexpected error of one line must not lose the others' answers)
                is_away = isinstance(exc, MediaNotFound) or storage_failure(exc) is not None
                return known | _failure(exc, retry=is_away)
            else:
                pace.answered(num_attempts=answer.num_attempts)
                return known | _success(answer, decode_seconds)
    return None


def _success(answer: Answer, decode_seconds: float) -> dict[str, Any]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "num_input_tokens": answer.num_input_tokens,
        "num_cached_tokens": answer.num_cached_tokens,
        "num_output_tokens": answer.num_output_tokens,
        "total_seconds": round(decode_seconds + answer.stage_seconds.total, 6),
    }


def _failure(error: Exception, *, retry: bool = False) -> dict[str, Any]:
    """Return the fields for a failure; the next run asks the line again if `retry`."""
    failure: dict[str, Any] = {"error": {"type": type(error).__name__, "message": str(error)}}
    return failure | {"retry": True} if retry else failure
