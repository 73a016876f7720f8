"""`video-llava frames`: what the model sees of a video."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..contact_sheet import write_contact_sheet
from ..errors import OptionError
from ..media import Clip
from .ask import frames_line
from .options import WindowOptions
from .output import exit_codes, warn

_SIZE = 224  # pixels; the 7B model's


def frames(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A file or an http(s) address.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to write; the default is VIDEO's name with .frames.png."),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Width and height of a frame, as `info` shows it.")] = _SIZE,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object with all that is known.")] = False,
    *,
    window: WindowOptions,
) -> None:
    """Write the frames that the model sees as a contact sheet, with their times. Needs no server."""
    with exit_codes():
        clip = Clip.load(video, size=size, **window.arguments())
        warn([clip.info])
        path = output or Path(f"{Path(clip.info.source).stem}.frames.png")
        try:
            write_contact_sheet(clip, path)
        except (OSError, ValueError) as exc:
            raise OptionError(f"{path} cannot be written ({exc}): name another file, such as sheet.png") from exc
        if as_json:
            typer.echo(json.dumps({"output": str(path), **asdict(clip.info)}, ensure_ascii=False))
        else:
            typer.echo(f"{frames_line(clip.info)}\nwritten to {path}")
