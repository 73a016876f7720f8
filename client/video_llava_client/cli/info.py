"""`video-llava info`: what the server says of itself."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from ..client import VideoLlava
from ..server import ModelLimits, ServerInfo
from .options import ConnectionOptions
from .output import exit_codes


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    *,
    connection: ConnectionOptions,
) -> None:
    """Show the server's version, its models, and what the model takes."""
    with exit_codes():
        with VideoLlava(**connection.arguments()) as client:
            told = client.info()
        typer.echo(json.dumps(asdict(told), ensure_ascii=False) if as_json else "\n".join(_lines(told)))


def _lines(told: ServerInfo) -> Iterator[str]:
    yield f"server   {told.url}, Triton {told.version}"
    for number, model in enumerate(told.models):
        why = f" ({model.reason})" if model.reason else ""
        yield f"{'' if number else 'models':<9}{model.name} {model.version} {model.state}{why}"
    yield from _limit_lines(told.limits) if told.limits else ("limits   not told by this server",)


def _limit_lines(limits: ModelLimits) -> Iterator[str]:
    yield f"frames   {limits.image_size} x {limits.image_size} pixels, {limits.num_frames} a video"
    yield f"tokens   {limits.tokens_per_video} a video, {limits.tokens_per_image} an image"
    yield f"context  {limits.max_model_len} tokens, media, text and answer together"
