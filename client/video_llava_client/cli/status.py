"""`video-llava probe` and `video-llava info`: whether the server works, and what it says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from .options import ConnectionOptions, takes
from .output import echo_json, exit_codes

if TYPE_CHECKING:
    from ..server import ModelLimits, ServerInfo


@click.option("--media", is_flag=True, help="Send a video of noise, which no cache has.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@takes(connection=ConnectionOptions)
def probe(media: bool, as_json: bool, connection: ConnectionOptions) -> None:
    """Let the server generate one token. Exit code 0: it works."""
    from ..client import VideoLlava

    with exit_codes():
        with VideoLlava(**connection.arguments()) as client:
            result = client.probe(media=media)
        if as_json:
            echo_json({"url": connection.url, **asdict(result)})
        else:
            click.echo(f"{connection.url} works: a token after {result.seconds:.3f} s")


@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
@takes(connection=ConnectionOptions)
def info(as_json: bool, connection: ConnectionOptions) -> None:
    """Show the server's version, its models, and the sizes that they take."""
    from ..client import VideoLlava

    with exit_codes():
        with VideoLlava(**connection.arguments()) as client:
            server = client.info()
        if as_json:
            echo_json(asdict(server))
        else:
            click.echo("\n".join(_lines(server)))


def _lines(server: ServerInfo) -> Iterator[str]:
    yield f"server   {server.url}, Triton {server.version}"
    for number, model in enumerate(server.models):
        reason = f" ({model.reason})" if model.reason else ""
        yield f"{'' if number else 'models':<9}{model.name} {model.version} {model.state}{reason}"
    yield from _limit_lines(server.limits) if server.limits else ("limits   not told by this server",)


def _limit_lines(limits: ModelLimits) -> Iterator[str]:
    yield f"frames   {limits.image_size} x {limits.image_size} pixels, {limits.num_frames} a video"
    yield f"tokens   {limits.tokens_per_video} a video, {limits.tokens_per_image} an image"
    yield f"context  {limits.max_model_len} tokens, media, text and answer together"
    if limits.lora_names:
        yield f"adapters {', '.join(limits.lora_names)}"
    for name, value in limits.conventions.to_json().items():
        if name != "num_frames":
            yield f"{name}: {value}"
