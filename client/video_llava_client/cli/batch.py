"""`video-llava batch`: many questions from a file, answered into another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..errors import OptionError, ServerError
from .arguments import is_pipe
from .options import ConnectionOptions, DecodingOptions, SamplingOptions, option, takes
from .output import SOME_FAILED, exit_codes, note

if TYPE_CHECKING:
    from ..batch import Counts, Line, OutputFile, OutputStream

DEFAULT_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class PaceOptions:
    """How many questions are asked at a time, and how long a server is waited for."""

    concurrency: int = option(
        "--concurrency",
        type=click.IntRange(1, 1024),
        default=16,
        help="The most questions at a time; a server that is full gets fewer.",
    )
    patience: float = option(
        "--patience",
        type=click.FloatRange(min=0),
        default=DEFAULT_PATIENCE_SECONDS,
        help="Seconds to go on while no server answers.",
    )


@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("--ordered", is_flag=True, help="Write records in the order of the lines.")
@takes(pace=PaceOptions, decoding=DecodingOptions, sampling=SamplingOptions, connection=ConnectionOptions)
def batch(
    source: str,
    target: str,
    ordered: bool,
    pace: PaceOptions,
    decoding: DecodingOptions,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> None:
    """Ask one question for each line of IN.

    IN and OUT have a JSON object a line; - is stdin or stdout. A line of IN is {"question": ..., "video": FILE or
    [FILES], "images": ...}, and may have id, prompt and the other arguments of Python's `ask`: start_seconds,
    end_seconds, frame_indices, frame_seconds, video_stream, max_tokens, temperature, timeout_seconds,
    lora_name and sampling. OUT gets a record for each, when it is answered.

    If it was stopped or killed, the same command resumes: lines with a record in OUT are not asked again, except
    those for which the server failed.
    """
    with exit_codes():
        if not answer_file(source, target, ordered, pace, decoding, sampling, connection):
            sys.exit(SOME_FAILED)


def answer_file(
    source: str,
    target: str,
    ordered: bool,
    pace: PaceOptions,
    decoding: DecodingOptions,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> bool:
    """Ask the lines of `source` that have no record in `target`; return whether this answered all of them."""
    import asyncio

    from ..async_client import AsyncVideoLlava
    from ..batch import Counts, OutputFile, run

    defaults, counts = sampling.arguments(), Counts()

    async def ask_all(report: Callable[[], None]) -> None:
        async with client:
            await run(
                client,
                _lines(source),
                output,
                counts,
                concurrency=pace.concurrency,
                patience_seconds=pace.patience,
                defaults=defaults,
                report=report,
                report_waiting=partial(_note_waiting, pace.patience),
            )

    with ExitStack() as opened:
        _check_names(source, target)
        client = AsyncVideoLlava(**connection.arguments(), isolated=decoding.isolated)
        output = opened.enter_context(_open_output(target, ordered, _kept_options(connection.model, defaults)))
        progress = Progress(counts, output.num_known, _count_unknown(source, output))
        try:
            with progress.bar() as report:
                asyncio.run(ask_all(report))
        finally:
            note(progress.summary(resumes=isinstance(output, OutputFile)))
        return not (counts.num_failed or progress.num_left)


class Progress:
    """What is done, and what is left.

    Args:
        counts: Of this run.
        num_known: Lines that had a record before.
        num_unknown: All other lines of IN; None if IN cannot be read twice.
    """

    def __init__(self, counts: Counts, num_known: int, num_unknown: int | None) -> None:
        self._counts = counts
        self._num_known = num_known
        self._num_unknown = num_unknown
        self._started = time.monotonic()

    @property
    def num_left(self) -> int:
        """Lines without a record, as far as is known."""
        counts = self._counts
        return max(self._num_unknown or 0, counts.num_read - counts.num_known) - counts.num_done

    @contextmanager
    def bar(self) -> Iterator[Callable[[], None]]:
        """Show a bar on stderr if that is a terminal; yields a function to call after each line."""
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
        total = None if self._num_unknown is None else self._num_known + self._num_unknown
        with progress.Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("asking", total=total, completed=self._num_known, rate=0.0)

            def report() -> None:
                failed = f", {self._counts.num_failed} failed" if self._counts.num_failed else ""
                done = self._num_known + self._counts.num_done
                bar.update(task, completed=done, rate=self._rate, description=f"asking{failed}")

            yield report

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


def _count_unknown(source: str, output: OutputFile | OutputStream) -> int | None:
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


def _kept_options(model: str, defaults: dict[str, Any]) -> dict[str, Any]:
    """Return what decides about the answers, each by its name."""
    others = {name: value for name, value in defaults.items() if name != "sampling" and value is not None}
    return {"model": model, **others, **defaults["sampling"]}


def _note_waiting(patience: float, error: ServerError) -> None:
    if getattr(error, "reason", "") != "full":
        note(f"video-llava: {' '.join(str(error).split())}; asking again for {patience:g} s")
