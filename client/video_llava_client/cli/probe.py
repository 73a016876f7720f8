"""`video-llava probe`: whether the server works, for readiness checks and people."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..client import VideoLlava
from .options import ConnectionOptions
from .output import exit_codes


def probe(
    media: Annotated[bool, typer.Option("--media", help="With a video of noise, which no cache knows.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    *,
    connection: ConnectionOptions,
) -> None:
    """Let the server generate one real token; exit code 0 says that it did."""
    with exit_codes():
        with VideoLlava(**connection.arguments()) as client:
            result = client.probe(media=media)
        if as_json:
            typer.echo(json.dumps({"url": connection.url, **asdict(result)}, ensure_ascii=False))
        else:
            typer.echo(f"{connection.url} works: a token after {result.seconds:.3f} s")
