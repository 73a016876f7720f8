"""`python -m video_llava_client.testing`: run a fake server until it is interrupted."""

import threading
from contextlib import suppress
from typing import Annotated

import typer

from .script import Reply
from .server import FakeServer


def main(
    text: Annotated[str, typer.Option(help="The answer to every question.")] = Reply.text,
    seconds_per_token: Annotated[float, typer.Option(help="Seconds for each word.")] = 0.0,
    port: Annotated[int, typer.Option(help="Where to listen; 0 is any free port.")] = 0,
) -> None:
    """Run a server that speaks Triton's gRPC protocol and gives every question the same answer."""
    with FakeServer(Reply(text, seconds_per_token=seconds_per_token), port=port) as server, suppress(KeyboardInterrupt):
        typer.echo(server.url)
        threading.Event().wait()


if __name__ == "__main__":
    typer.run(main)
