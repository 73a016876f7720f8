"""The command `video-llava` and its commands."""

import io
import os
import sys

import click

from .ask import ask
from .batch import batch
from .benchmark import benchmark_decode
from .chat import chat
from .evaluate import evaluate
from .frames import frames
from .options import SETTINGS
from .output import EXIT_CODES, output_failed
from .status import info, probe


@click.group("video-llava", epilog=EXIT_CODES, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Ask Video-LLaVA on a Triton server about videos and images."""


for _command in (ask, chat, evaluate, frames, benchmark_decode, probe, info):
    app.command(epilog=EXIT_CODES, no_args_is_help=_command in (ask, evaluate, frames, benchmark_decode))(_command)
app.add_command(batch)


def main() -> None:
    """Run the command line."""
    # Suppresses gRPC's own lines about certificates and connections.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name may have any bytes
    try:
        app()
    except OSError as exc:  # of a --help
        sys.exit(output_failed(exc))
