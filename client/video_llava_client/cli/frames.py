"""`video-llava frames`: the frames that the model sees of a video."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import OptionError
from .ask import frames_line
from .options import DecodingOptions, WindowOptions
from .output import echo_json, exit_codes, warn


def frames(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="A file or an http(s) address.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The picture to write; by default VIDEO's name with .frames.png."),
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Width and height of a frame, as `info` shows it.")] = 224,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object with all that is known.")] = False,
    *,
    window: WindowOptions,
    decoding: DecodingOptions,
) -> None:
    """Write the frames that the model sees, with their times, as a contact sheet. Needs no server."""
    from ..clip import Clip
    from ..contact_sheet import write_contact_sheet

    with exit_codes():
        with decoding.decoders() as decoders:
            clip = Clip.load(video, size=size, **window.arguments(), decoders=decoders)
        warn([clip.info])
        path = output or Path(f"{Path(clip.info.source).stem}.frames.png")
        try:
            write_contact_sheet(clip, path)
        except (OSError, ValueError) as exc:
            raise OptionError(f"{path} cannot be written ({exc}): name another file, such as sheet.png") from exc
        if as_json:
            echo_json({"output": str(path), **asdict(clip.info)})
        else:
            typer.echo(f"{frames_line(clip.info)}\nwritten to {path}")
