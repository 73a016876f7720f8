"""Where things go: answers to stdout, errors in one line to stderr, and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import typer

from ..errors import ServerError, VideoLlavaError
from ..media import ClipInfo

SERVER_FAILED, BAD_INPUT, SOME_FAILED, INTERRUPTED = 1, 2, 3, 130
EXIT_CODES = """\b
Exit codes:
  0    answered
  1    the server or the connection failed
  2    bad input
  3    batch: some lines failed, all others are answered
  130  interrupted"""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn errors into one line on stderr and an exit code."""
    try:
        yield
    except VideoLlavaError as exc:
        tell(exc)
        raise typer.Exit(exit_code(exc)) from exc
    except KeyboardInterrupt as exc:
        note("video-llava: interrupted")
        raise typer.Exit(INTERRUPTED) from exc
    except BrokenPipeError as exc:
        # Whoever read the answers has gone, as `| head` does; Python would complain again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(SERVER_FAILED) from exc


def exit_code(error: VideoLlavaError) -> int:
    """Return the exit code that stands for `error`."""
    return SERVER_FAILED if isinstance(error, ServerError) else BAD_INPUT


def tell(error: Exception) -> None:
    """Write an error to stderr, in one line, red on a terminal."""
    note(f"video-llava: {' '.join(str(error).split())}", colour=typer.colors.RED)


def warn(frames: Iterable[ClipInfo]) -> None:
    """Write what is wrong with videos that could still be used to stderr."""
    for info in frames:
        for warning in info.warnings:
            note(f"video-llava: {info.source}: {warning}", colour=typer.colors.YELLOW)


def note(text: str, *, colour: str | None = None) -> None:
    """Write what is no answer to stderr; coloured on a terminal, unless NO_COLOR is set."""
    coloured = colour is not None and not os.environ.get("NO_COLOR")
    typer.echo(typer.style(text, fg=colour) if coloured else text, err=True)
