"""Asks every line that has no record yet, several at a time."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
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
from .order import Leaders, grouped, media_key
from .pace import Pace
from .read_ahead import ReadAhead
from .report import Report
from .room import MAX_MEDIA_BYTES, Room
from .rows import Record, Row, Sink
from .stop import Stop
from .storage import storage_failure
from .videos import MAX_CORES, Videos

MAX_ROWS_AHEAD = 256
MAX_INTERRUPTIONS = 3  # of one line's answer: the line may be what the server dies of


@dataclass
class Counts:
    """The progress of a batch.

    Attributes:
        num_read: Lines of the input that have been read.
        num_known: How many of those had a record before.
        num_answered: Lines with an answer.
        num_failed: Lines with an error.
        report: What they took.
    """

    num_read: int = 0
    num_known: int = 0
    num_answered: int = 0
    num_failed: int = 0
    report: Report = field(default_factory=Report)

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
    concurrency: int | None,
    patience_seconds: float,
    defaults: Mapping[str, Any],
    stop: Stop | None = None,
    priority: int = 0,
    max_media_bytes: int = MAX_MEDIA_BYTES,
    report: Callable[[], None] = lambda: None,
    report_waiting: Callable[[ServerError], None] = lambda _error: None,
) -> None:
    """Ask every row that `output` does not know, and write a record for each.

    Args:
        client: Whom to ask.
        rows: Read by another thread, some rows ahead.
        output: Where the records go.
        counts: Kept up to date, also when this raises.
        concurrency: The most lines at a time; None: as many as the server wants.
        patience_seconds: How long to go on while every request fails for the server's sake.
        defaults: Arguments of `ask` for lines that do not have them.
        stop: Ends this early; `output` is then not finished.
        priority: How many steps the lines go behind the requests of others.
        max_media_bytes: Of rows and decoded videos in memory.
        report: Called after each line.
        report_waiting: Called with the error when a server begins to be waited for.

    Raises:
        ServerError: The last one, when no patience is left.
        OptionError: The input cannot be read, or is not the one that `output` answers.
        OSError: The output cannot be written.
    """
    pace, stop = Pace(concurrency, patience_seconds, report_waiting), stop or Stop()
    asker = Asker(client, pace, stop, counts.report, defaults, {"server_load": True, "priority": priority})
    # Half of the media wait in `ahead`. Of the others as many as are asked may be decoded before there is a place.
    room = Room(max_media_bytes // 2, lambda: 2 * pace.num_allowed + MAX_CORES)

    def unknown() -> Iterator[Row]:
        for row in rows:
            counts.num_read += 1
            if output.knows(row):
                counts.num_known += 1
            else:
                yield row

    async def work(row: Row) -> None:
        async with room.leaving(row.num_bytes) as grow:
            record = await asker.answer(row, grow)
            if record is None:
                return
            output.write(row, record)
            if "error" in record:
                counts.num_failed += 1
                counts.report.failed(row, record)
            else:
                counts.num_answered += 1
            report()

    tasks: set[asyncio.Task[None]] = set()  # that are not done

    def begin(group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
        task = group.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def feed(group: asyncio.TaskGroup) -> None:
        while not stop.is_requested and (row := await ahead.next()) is not None:
            await room.enter(row.num_bytes)
            begin(group, work(row))

    ahead = ReadAhead(
        unknown(),
        num_ahead=min(concurrency or MAX_ROWS_AHEAD, MAX_ROWS_AHEAD),
        max_bytes=max_media_bytes // 2,
        num_bytes=lambda row: row.num_bytes,
        order=grouped,
    )
    try:
        with ahead:
            async with asyncio.TaskGroup() as group:
                stop.watch(tasks)
                begin(group, feed(group))
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    if not stop.is_requested:
        output.finish()


class Asker:
    """Asks lines, and makes their records.

    Args:
        client: Whom to ask.
        pace: How many at a time.
        stop: Ends the run early.
        report: Is told of answers.
        defaults: Arguments of `ask` for lines that do not have them.
        extras: Arguments of `ask` that a server of an earlier release refuses: then it is asked without.
    """

    def __init__(
        self,
        client: AsyncVideoLlava,
        pace: Pace,
        stop: Stop,
        report: Report,
        defaults: Mapping[str, Any],
        extras: Mapping[str, Any],
    ) -> None:
        self._client = client
        self._pace = pace
        self._stop = stop
        self._report = report
        self._defaults = defaults
        self._extras = dict(extras)
        self._videos = Videos(client)
        self._leaders = Leaders()

    async def answer(self, row: Row, grow: Callable[[int], None]) -> Record | None:
        """Return the record of a row, None if the run ends before; `grow` is told the bytes of its frames.

        Raises:
            ServerError: No patience is left.
        """
        try:
            question = row.parse()
        except VideoLlavaError as exc:
            # A line without its end may be one that is still being written.
            return _failure(exc, retry=not row.is_terminated)
        known = {"id": question["id"]} if "id" in question else {}
        record = await self._answer(ask_options(question, self._defaults), grow)
        return None if record is None else {**known, **record}

    async def _answer(self, question: Mapping[str, Any], grow: Callable[[int], None]) -> Record | None:
        options: dict[str, Any] | None = None
        num_interruptions, decode_seconds, asked = 0, 0.0, time.monotonic()
        while not self._stop.is_requested:
            extras: dict[str, Any] = {}
            try:
                if options is None and self._videos.can_decode:  # ahead, before there is a place
                    options, decode_seconds = await self._videos.decoded(question, grow)
                async with self._leaders.turn(media_key(question)) as lead, self._pace.place() as asked:
                    with self._stop.asking():
                        if options is None:
                            options, decode_seconds = await self._videos.decoded(question, grow)
                        extras = dict(self._extras)
                        async with self._client.stream(**options, **extras) as stream:
                            await anext(stream, None)
                            lead()
                            answer = await stream.until_done()
            except (Unavailable, InterruptedStream, Cancelled) as exc:  # a server that stops may cancel
                num_interruptions += not isinstance(exc, Unavailable)
                if num_interruptions == MAX_INTERRUPTIONS:
                    return _failure(exc, retry=True)
                self._pace.refused(asked, exc)
            except ServerError as exc:
                if self._drops(exc, extras):
                    continue
                if isinstance(exc, InvalidRequest):
                    self._pace.heard()
                    return _failure(exc)
                self._pace.failed(exc)
                return _failure(exc, retry=True)
            except Exception as exc:  # noqa: BLE001 (an unexpected error of one line must not lose the others' answers)
                is_away = isinstance(exc, MediaNotFound) or storage_failure(exc) is not None
                return _failure(exc, retry=is_away)
            else:
                self._pace.answered(asked, answer.server_load, num_attempts=answer.num_attempts)
                self._report.answered(question, answer, decode_seconds)
                return _success(answer, decode_seconds)
        return None

    def _drops(self, error: ServerError, extras: Mapping[str, Any]) -> bool:
        """Whether the server refused one of the `extras` because it does not know it; it gets no more of those."""
        text = str(error)
        unknown = {
            "server_load": "unexpected inference input 'return_server_load'" in text,
            "priority": "unknown parameter 'priority'" in text,
        }
        dropped = [name for name in extras if unknown.get(name)]
        for name in dropped:
            self._extras.pop(name, None)
        return bool(dropped)


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
