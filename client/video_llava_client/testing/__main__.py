"""`python -m video_llava_client.testing`: run a fake server until it is interrupted."""

import threading
from contextlib import suppress

import click

from .script import Reply
from .server import FakeServer


@click.command(context_settings={"show_default": True})
@click.option("--text", default=Reply.text, help="The answer to every question.")
@click.option("--seconds-per-token", default=0.0, help="Seconds for each word.")
@click.option("--port", default=0, help="Where to listen; 0 is any free port.")
def main(text: str, seconds_per_token: float, port: int) -> None:
    """Run a server that speaks Triton's gRPC protocol and gives every question the same answer."""
    with FakeServer(Reply(text, seconds_per_token=seconds_per_token), port=port) as server, suppress(KeyboardInterrupt):
        click.echo(server.url)
        threading.Event().wait()


if __name__ == "__main__":
    main()
