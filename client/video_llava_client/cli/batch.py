"""`video-llava batch`: many questions from a file, answered into another."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..async_client import AsyncVideoLlava
from ..batch import Journal, Printer, Tally, read_lines, run
from ..errors import OptionError
from .options import ConnectionOptions, SamplingOptions
from .output import SERVER_FAILED, SOME_FAILED, exit_codes, note, tell


def batch(
    source: Annotated[str, typer.Argument(metavar="IN", help="JSON lines, one question each; - is stdin.")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="JSON lines, one record each; - is stdout.")],
    concurrency: Annotated[int, typer.Option(min=1, max=1024, help="Questions under way at a time.")] = 16,
    ordered: Annotated[bool, typer.Option("--ordered", help="Records in the order of the lines.")] = False,
    *,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> None:
    """Ask one question for each line of IN.

    A line is {"question": ..., "video": FILE or [FILES], "images": ...}, and may hold id, prompt, start_seconds,
    end_seconds, max_tokens, temperature, timeout_seconds and sampling. OUT gets a record for each, when it is answered.

    Stopped, or killed, the same command goes on where it was: lines with a record in OUT are not asked again, except
    those that failed for the server's sake.
    """
    with exit_codes(), ExitStack() as opened:
        lines = opened.enter_context(_source(source))
        output = Printer(sys.stdout, ordered=ordered)
        if target != "-":
            output = opened.enter_context(Journal(Path(target), ordered=ordered))
        num_known = output.num_known if isinstance(output, Journal) else 0
        started = time.monotonic()
        with _progress(source, num_known) as report:
            tally = asyncio.run(_run(connection.arguments(), lines, output, sampling.arguments(), concurrency, report))
        _conclude(tally, num_known, time.monotonic() - started)


async def _run(
    connection: dict[str, Any],
    lines: TextIO,
    output: Journal | Printer,
    defaults: dict[str, Any],
    concurrency: int,
    report: Callable[[Tally], None],
) -> Tally:
    async with AsyncVideoLlava(**connection) as client:
        return await run(client, read_lines(lines), output, concurrency=concurrency, defaults=defaults, report=report)


def _source(source: str) -> AbstractContextManager[TextIO]:
    if source == "-":
        return nullcontext(sys.stdin)
    try:
        # What is no UTF-8 is for its own line to complain of.
        return Path(source).open(encoding="utf-8", errors="surrogateescape")
    except OSError as exc:
        raise OptionError(f"{source} cannot be read ({exc.strerror}): check the name") from exc


@contextmanager
def _progress(source: str, num_known: int) -> Iterator[Callable[[Tally], None]]:
    """Show a bar on stderr, if that is a terminal; yields what is to be called after each line."""
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
        task = bar.add_task("asking", total=_count(source), completed=num_known, rate=0.0)

        def report(tally: Tally) -> None:
            failed = f", {tally.num_failed} failed" if tally.num_failed else ""
            rate = tally.num_done / max(time.monotonic() - started, 1e-9)
            bar.update(task, completed=num_known + tally.num_done, rate=rate, description=f"asking{failed}")

        yield report


@contextmanager
def _going_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        note("the same command goes on from here")
        raise


def _count(source: str) -> int | None:
    """Return how many lines there are to ask, None for a stream, which cannot be read twice."""
    if source == "-":
        return None
    with _source(source) as file:
        return sum(bool(text.strip()) for text in file)


def _conclude(tally: Tally, num_known: int, seconds: float) -> None:
    rate = tally.num_done / max(seconds, 1e-9)
    before = f", {num_known} had been before" if num_known else ""
    note(f"{tally.num_answered} answered, {tally.num_failed} failed in {seconds:.1f} s ({rate:.1f}/s){before}")
    if tally.last_unavailable is not None and tally.gave_up:
        tell(tally.last_unavailable)
        note("stopped, since no line finds a server; the same command goes on from here")
        raise typer.Exit(SERVER_FAILED)
    if tally.num_failed:
        raise typer.Exit(SOME_FAILED)
