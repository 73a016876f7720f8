"""`video-llava batch`: many questions from a file, answered into another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from ..errors import OptionError
from .options import ConnectionOptions, SamplingOptions
from .output import SERVER_FAILED, SOME_FAILED, exit_codes, note, report_error

if TYPE_CHECKING:
    from ..batch import Counts, OutputFile, OutputStream


def batch(
    source: Annotated[str, typer.Argument(metavar="IN", help="JSON lines, one question each; - is stdin.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="JSON lines, one record each; - is stdout.")],
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="The most questions at a time.")] = 16,
    ordered: Annotated[bool, typer.Option("--ordered", help="Write records in the order of the lines.")] = False,
    *,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> None:
    """Ask one question for each line of IN.

    A line is {"question": ..., "video": FILE or [FILES], "images": ...}, and may have id, prompt, start_seconds,
    end_seconds, max_tokens, temperature, timeout_seconds and sampling. OUT gets a record for each, when it is answered.

    If it was stopped or killed, the same command resumes: lines with a record in OUT are not asked again, except
    those for which the server failed.
    """
    import asyncio

    from ..batch import OutputFile, OutputStream

    with exit_codes(), ExitStack() as opened:
        lines = opened.enter_context(_open(source))
        output = OutputStream(sys.stdout, ordered=ordered)
        if target != "-":
            output = opened.enter_context(OutputFile(Path(target), ordered=ordered))
        num_known = output.num_known
        started = time.monotonic()
        with _progress(source, num_known) as report:
            counts = asyncio.run(_run(connection.arguments(), lines, output, sampling.arguments(), concurrency, report))
        _conclude(counts, num_known, time.monotonic() - started)


async def _run(
    connection: dict[str, Any],
    lines: TextIO,
    output: OutputFile | OutputStream,
    defaults: dict[str, Any],
    concurrency: int,
    report: Callable[[Counts], None],
) -> Counts:
    from ..async_client import AsyncVideoLlava
    from ..batch import read_lines, run

    async with AsyncVideoLlava(**connection) as client:
        return await run(client, read_lines(lines), output, concurrency=concurrency, defaults=defaults, report=report)


def _open(source: str) -> AbstractContextManager[TextIO]:
    if source == "-":
        return nullcontext(sys.stdin)
    try:
        # A line that is not UTF-8 fails alone.
        return Path(source).open(encoding="utf-8", errors="surrogateescape")
    except OSError as exc:
        raise OptionError(f"{source} cannot be read ({exc.strerror}): check the name") from exc


@contextmanager
def _progress(source: str, num_known: int) -> Iterator[Callable[[Counts], None]]:
    """Show a bar on stderr if that is a terminal; yields a function to call after each line."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f}/s"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    started = time.monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("asking", total=_count_lines(source), completed=num_known, rate=0.0)

        def report(counts: Counts) -> None:
            failed = f", {counts.num_failed} failed" if counts.num_failed else ""
            rate = counts.num_done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=num_known + counts.num_done, rate=rate, description=f"asking{failed}")

        yield report


def _count_lines(source: str) -> int | None:
    """Return how many lines there are to ask; None for stdin, which cannot be read twice."""
    if source == "-":
        return None
    with _open(source) as file:
        return sum(bool(text.strip()) for text in file)


def _conclude(counts: Counts, num_known: int, seconds: float) -> None:
    rate = counts.num_done / max(seconds, 1e-9)
    before = f", {num_known} had a record before" if num_known else ""
    note(f"{counts.num_answered} answered, {counts.num_failed} failed in {seconds:.1f} s ({rate:.1f}/s){before}")
    if counts.last_unavailable is not None and counts.gave_up:
        report_error(counts.last_unavailable)
        note("stopped, since no server is available; the same command resumes")
        raise typer.Exit(SERVER_FAILED)
    if counts.num_failed:
        raise typer.Exit(SOME_FAILED)
