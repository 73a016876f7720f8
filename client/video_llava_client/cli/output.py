"""Answers to stdout, everything else to stderr, and an exit code."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from ..errors import ServerError, VideoLlavaError

if TYPE_CHECKING:
    from rich.table import Table

    from ..clip import ClipInfo
    from ..stream import AnswerStream

SERVER_FAILED, BAD_INPUT, SOME_FAILED, INTERRUPTED, NO_READER, TERMINATED = 1, 2, 3, 130, 141, 143
EXIT_CODES = """\b
Exit codes:
  0    answered
  1    the server, the connection or the output failed
  2    bad input
  3    batch, evaluate: some questions failed, all others are answered
  130  interrupted
  141  the reader of stdout has ended
  143  batch, evaluate: ended by SIGTERM, the same command resumes"""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code."""
    try:
        yield
    except VideoLlavaError as exc:
        report_error(exc)
        sys.exit(exit_code(exc))
    except KeyboardInterrupt:
        note("video-llava: interrupted")
        sys.exit(INTERRUPTED)
    except OSError as exc:
        sys.exit(output_failed(exc))


def output_failed(error: OSError) -> int:
    """Write to stderr that the output cannot be written, unless its reader has ended; return the exit code."""
    # Python writes what is left at its end, and would complain again.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return NO_READER
    note(f"video-llava: {f'cannot write ({error.strerror})' if error.strerror else error}", colour="red")
    return SERVER_FAILED


def exit_code(error: VideoLlavaError) -> int:
    """Return the exit code for `error`."""
    return SERVER_FAILED if isinstance(error, ServerError) else BAD_INPUT


def echo_stream(stream: AnswerStream) -> None:
    """Read an open stream to its end and write its text to stdout as it comes, one line even if it breaks off."""
    has_written = False
    try:
        for delta in stream:
            click.echo(delta.text, nl=False)
            has_written = has_written or bool(delta.text)
    finally:
        if has_written:
            click.echo()


def as_text(table: Table) -> str:
    """Return a table as lines of any length."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=10_000)
    with console.capture() as lines:
        console.print(table)
    return "\n".join(line.rstrip() for line in lines.get().splitlines())


def echo_json(value: dict[str, Any]) -> None:
    """Write one JSON object to stdout."""
    # JSON's escapes stand for what UTF-8 has not: bytes of a file's name that are not UTF-8.
    click.echo(json.dumps(value, ensure_ascii=False).encode("utf-8", errors="backslashreplace"))


def report_error(error: Exception) -> None:
    """Write an error to stderr, in one line, red on a terminal."""
    note(f"video-llava: {' '.join(str(error).split())}", colour="red")


def warn(frames: Iterable[ClipInfo]) -> None:
    """Write the defects of videos that are still usable to stderr."""
    for info in frames:
        for warning in info.warnings:
            note(f"video-llava: {info.source}: {warning}", colour="yellow")


def note(text: str, *, colour: str | None = None) -> None:
    """Write to stderr; coloured on a terminal, unless NO_COLOR is set."""
    coloured = colour is not None and not os.environ.get("NO_COLOR")
    with suppress(OSError):  # nothing can be said where stderr is full or closed
        click.echo(click.style(text, fg=colour) if coloured else text, err=True)
