"""The command `video-llava-drain`."""

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from ._drain import announce, drain

_EXIT_ENDED_SOME = 1


def main() -> None:
    """Entry point of `video-llava-drain`."""
    typer.run(_drain)


def _drain(
    runtime_dir: Annotated[
        Path,
        typer.Option(
            envvar="VIDEO_LLAVA_RUNTIME_DIR",
            exists=True,
            file_okay=False,
            writable=True,
            help="The folder that this variable names in the server's environment.",
        ),
    ],
    timeout_seconds: Annotated[
        float, typer.Option("--timeout-seconds", "--timeout", min=0, help="For what runs; then it ends with an error.")
    ] = 60,
    announce_seconds: Annotated[
        float,
        typer.Option(
            "--announce-seconds",
            "--announce",
            min=0,
            help="Before it refuses anything: not ready, so that proxies and Services send it nothing more.",
        ),
    ] = 0,
) -> None:
    """Empty a server before its stop, in its own container: Kubernetes' preStop, before SIGTERM.

    The server is not ready any more (Triton 26.03 and later), refuses what is new (UNAVAILABLE, "ask another server"),
    and this command returns when all that it had begun has ended. Exit codes: 0 all of it by itself, 1 some by an
    error after the timeout, 2 bad input. A server that has drained stays so until it is started again.
    """
    if announce_seconds:
        announce(runtime_dir, seconds=announce_seconds)
    began = time.monotonic()
    if not drain(runtime_dir, timeout_seconds=timeout_seconds):
        typer.echo(f"requests still ran after {timeout_seconds:g} s and were ended with an error", err=True)
        sys.exit(_EXIT_ENDED_SOME)
    typer.echo(f"drained after {time.monotonic() - began:.1f} s", err=True)
