"""`video-llava batch`: many questions from a file, answered into another."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..errors import OptionError, ServerError
from ..sources import name_of
from .arguments import is_pipe
from .data import DataOptions, ReportOptions, is_folder, merge, status
from .options import SETTINGS, ConnectionOptions, DecodingOptions, SamplingOptions, option, takes
from .output import EXIT_CODES, SOME_FAILED, TERMINATED, as_text, exit_codes, note

if TYPE_CHECKING:
    from ..batch import Counts, Line, OutputFile, OutputStream, Row, Sink, Stop
    from ..batch.dataset import DataSet
    from ..batch.report import Report

DEFAULT_PATIENCE_SECONDS = 600.0
_NOTE_SECONDS = 60.0


@dataclass(frozen=True)
class PaceOptions:
    """How many questions are asked at a time, and how long a server is waited for."""

    concurrency: int | None = option(
        "--concurrency",
        type=click.IntRange(1, 1024),
        help="The most questions at a time. Without it as many as the server wants: it says how busy it is.",
    )
    priority: int = option(
        "--priority",
        type=click.IntRange(0, 1000),
        default=1,
        help="Go so many steps behind the requests of others; 0: in turn with them.",
    )
    media_megabytes: int = option(
        "--media-megabytes",
        type=click.IntRange(1),
        default=512,
        help="Media and decoded frames in memory.",
    )
    patience: float = option(
        "--patience",
        type=click.FloatRange(min=0),
        default=DEFAULT_PATIENCE_SECONDS,
        help="Seconds to go on while no server answers.",
    )
    grace: float = option(
        "--grace",
        type=click.FloatRange(min=0),
        default=20.0,
        help="Seconds after SIGTERM in which what is in flight may end; a second SIGTERM ends it.",
    )


@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--ordered", is_flag=True, help="Write records in the order of the lines.")
@takes(
    data=DataOptions,
    report=ReportOptions,
    pace=PaceOptions,
    decoding=DecodingOptions,
    sampling=SamplingOptions,
    connection=ConnectionOptions,
)
def answer(
    source: str,
    target: str,
    ordered: bool,
    data: DataOptions,
    report: ReportOptions,
    pace: PaceOptions,
    decoding: DecodingOptions,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> None:
    """Ask one question for each line of IN, or each row of a data set.

    IN and OUT have a JSON object a line; - is stdin or stdout. A line of IN is {"question": ..., "video": FILE or
    [FILES], "images": ...}, and may have id, prompt and the other arguments of Python's `ask`: start_seconds,
    end_seconds, frame_indices, frame_seconds, video_stream, max_tokens, temperature, timeout_seconds,
    lora_name and sampling. OUT gets a record for each, when it is answered.

    If it was stopped or killed, the same command resumes: lines with a record in OUT are not asked again, except
    those for which the server failed.

    IN may be a data set: Parquet, WebDataset tars, Arrow, CSV or a folder of media, by a path, a pattern or an
    address (s3://, gs://, abfs://, hf://). OUT may be a folder, also at an address: it gets parts, which several
    workers may write, each with its --shard.
    """
    with exit_codes():
        if not answer_file(source, target, ordered, data, report, pace, decoding, sampling, connection):
            sys.exit(SOME_FAILED)


def answer_file(
    source: str,
    target: str,
    ordered: bool,
    data: DataOptions | None,
    report: ReportOptions,
    pace: PaceOptions,
    decoding: DecodingOptions,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> bool:
    """Ask the lines of `source` that have no record in `target`; return whether this answered all of them."""
    import asyncio

    from ..async_client import AsyncVideoLlava
    from ..batch import Counts, OutputStream, kept_options, run
    from ..batch.report_file import ReportFile, table

    defaults, counts = sampling.arguments(), Counts()

    async def ask_all(report_line: Callable[[], None]) -> None:
        async with client:
            await run(
                client,
                rows,
                output,
                counts,
                concurrency=pace.concurrency,
                patience_seconds=pace.patience,
                priority=pace.priority,
                max_media_bytes=pace.media_megabytes * 2**20,
                defaults=defaults,
                stop=stop,
                report=report_line,
                report_waiting=partial(_note_waiting, pace.patience),
            )

    with _ended_by_sigterm(pace.grace) as stop, ExitStack() as opened:
        is_data = data is not None and data.is_meant(source, target)
        options = kept_options(connection.model, defaults)
        if data and is_data:
            data_set = data.data_set(source)
            rows, output = _open_data(data, data_set, pace.patience, counts.report, target, ordered, options)
        else:
            data_set = None
            rows, output = _open_lines(source, target, ordered, options)
        client = AsyncVideoLlava(**connection.arguments(), isolated=decoding.isolated)
        opened.enter_context(output)
        progress = Progress(counts, output.num_known, None if is_data else _count_unknown(source, output), data_set)
        title = f"video-llava batch {name_of(source)} {name_of(target)}"
        file = report.path and ReportFile(report.path, counts.report, title=title, num_gpus=report.gpus)
        is_finished = False
        try:
            with progress.bar(file.update if file else lambda: None) as report_line:
                asyncio.run(ask_all(report_line))
            is_finished = not stop.is_requested
        finally:
            counts.report.end(is_finished=is_finished)
            if counts.num_done and not isinstance(output, OutputStream):
                note(as_text(table(counts.report.to_json(num_gpus=report.gpus))))
            note(progress.summary(resumes=not isinstance(output, OutputStream)))
            if file:
                file.write()
    if stop.is_requested:
        note("video-llava: ended by SIGTERM")
        sys.exit(TERMINATED)
    return not (counts.num_failed or progress.num_left)


@contextmanager
def _ended_by_sigterm(grace_seconds: float) -> Iterator[Stop]:
    """Let SIGTERM end a run, or this process if none has begun; the first process of a container does not by itself."""
    from ..batch import Stop

    stop = Stop(grace_seconds)

    def end(*_: object) -> None:
        if not stop.has_begun:
            sys.exit(TERMINATED)
        stop.request()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


class BatchGroup(click.Group):
    """`batch IN OUT` is `batch run IN OUT`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command's name before arguments that do not begin with one."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group("batch", cls=BatchGroup, epilog=EXIT_CODES, no_args_is_help=True, context_settings=SETTINGS)
def batch() -> None:
    """Ask many questions: `batch IN OUT`, whose help is `batch run --help`."""


batch.command("run", epilog=EXIT_CODES, no_args_is_help=True)(answer)
batch.command("merge", epilog=EXIT_CODES, no_args_is_help=True)(merge)
batch.command("status", epilog=EXIT_CODES, no_args_is_help=True)(status)


class Progress:
    """What is done, and what is left.

    Args:
        counts: Of this run.
        num_known: Lines that had a record before.
        num_unknown: All other lines of IN; None if IN cannot be read twice.
        data_set: IN, if it is one: says how many rows to expect.
    """

    def __init__(
        self,
        counts: Counts,
        num_known: int,
        num_unknown: int | None,
        data_set: DataSet | None = None,
    ) -> None:
        self._counts = counts
        self._num_known = num_known
        self._num_unknown = num_unknown
        self._data_set = data_set
        self._started = self._noted_at = time.monotonic()

    @property
    def total(self) -> int | None:
        """Lines with and without a record, as far as is known."""
        if self._num_unknown is not None:
            return self._num_known + self._num_unknown
        expected = self._data_set.expected_rows if self._data_set else None
        return None if expected is None else max(expected, self._num_known + self._counts.num_done)

    @property
    def num_left(self) -> int:
        """Lines without a record, as far as is known."""
        counts = self._counts
        return max(self._num_unknown or 0, counts.num_read - counts.num_known) - counts.num_done

    @contextmanager
    def bar(self, also: Callable[[], None] = lambda: None) -> Iterator[Callable[[], None]]:
        """Show a bar on stderr if that is a terminal, else a line each minute.

        Yields a function to call after each line, which calls `also`.
        """
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]:.1f}/s"),
            progress.TimeRemainingColumn(),
        )
        console = Console(stderr=True)
        with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("asking", total=self.total, completed=self._num_known, rate=0.0)

            def report() -> None:
                failed = f", {self._counts.num_failed} failed" if self._counts.num_failed else ""
                done = self._num_known + self._counts.num_done
                bar.update(task, completed=done, total=self.total, rate=self._rate, description=f"asking{failed}")
                if bar.disable and time.monotonic() >= self._noted_at + _NOTE_SECONDS:
                    self._noted_at = time.monotonic()
                    note(f"video-llava: {self._state(done)}{failed}")
                also()

            yield report

    def _state(self, num_done: int) -> str:
        """Return how many rows are done, how fast, and when the last will be."""
        rate, total = self._rate, self.total
        if not total or not rate:
            return f"{num_done:,} done ({rate:.1f}/s)"
        left = timedelta(seconds=round((total - num_done) / rate))
        return f"{num_done:,} of about {total:,} done ({rate:.1f}/s, {left} left)"

    def summary(self, *, resumes: bool) -> str:
        """Return one line that accounts for all lines."""
        counts, left = self._counts, ""
        if self.num_left:
            read = "read and " if self._num_unknown is None else ""
            left = f", {self.num_left} {read}not answered" + " (the same command resumes)" * resumes
        known = f", {self._num_known} had a record before" if self._num_known else ""
        seconds = time.monotonic() - self._started
        return (
            f"{counts.num_answered} answered, {counts.num_failed} failed{left}{known} "
            f"in {seconds:.1f} s ({self._rate:.1f}/s)"
        )

    @property
    def _rate(self) -> float:
        return self._counts.num_done / max(time.monotonic() - self._started, 1e-9)


def _open_data(
    data: DataOptions,
    data_set: DataSet,
    patience: float,
    report: Report,
    target: str,
    ordered: bool,
    options: dict[str, Any],
) -> tuple[Iterable[Row], Sink]:
    """Return the rows of a data set, and where their records go."""
    if is_folder(target):
        if ordered:
            raise OptionError("a folder OUT has no order: use `video-llava batch merge --ordered`")
        parts = data.parts(target, options, patience, report)
        return data_set.rows(parts.knows_all), parts
    if data.shard:
        raise OptionError("--shard needs a folder OUT, such as answers/: several workers cannot write one file")
    return data_set.rows(), _open_output(target, ordered, options)


def _open_lines(source: str, target: str, ordered: bool, options: dict[str, Any]) -> tuple[Iterable[Row], Sink]:
    """Return the lines of a file or a pipe, and where their records go."""
    _check_names(source, target)
    return _lines(source), _open_output(target, ordered, options)


def _lines(source: str) -> Iterator[Line]:
    from ..batch import read_lines

    try:
        with _open_input(source) as file:
            yield from read_lines(file)
    except OSError as exc:
        raise _unreadable(source, exc) from exc


def _open_input(source: str) -> BinaryIO:
    if source != "-":
        return Path(source).open("rb")
    # Not `sys.stdin`: Python cannot end while a thread reads that.
    return open(sys.stdin.fileno(), "rb", closefd=False)


def _check_names(source: str, target: str) -> None:
    """Refuse names of files that cannot be used, before any is made."""
    for name, stream in ((source, sys.stdin), (target, sys.stdout)):
        if name == "-" and stream is None:
            raise OptionError("- is closed: name a file")
    try:
        if source != "-" and not is_pipe(source):
            Path(source).open("rb").close()
    except OSError as exc:
        raise _unreadable(source, exc) from exc


def _unreadable(source: str, error: OSError) -> OptionError:
    return OptionError(f"{source} cannot be read ({error.strerror}): check the name")


def _count_unknown(source: str, output: Any) -> int | None:
    """Return how many lines of IN have no record; None if IN cannot be read twice. Refuses another IN than before."""
    if source == "-" or is_pipe(source):
        return None
    known = [output.knows(line) for line in _lines(source)]
    output.check_num_known(sum(known))
    return len(known) - sum(known)


def _open_output(target: str, ordered: bool, options: dict[str, Any]) -> OutputFile | OutputStream:
    from ..batch import OutputFile, OutputStream

    if target == "-":
        return OutputStream(sys.stdout.buffer, ordered=ordered)
    if is_pipe(target):
        return OutputStream(Path(target).open("wb"), ordered=ordered)
    return OutputFile(Path(target), ordered=ordered, options=options)


def _note_waiting(patience: float, error: ServerError) -> None:
    if getattr(error, "reason", "") != "full":
        note(f"video-llava: {' '.join(str(error).split())}; asking again for {patience:g} s")
