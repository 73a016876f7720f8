"""`video-llava frames`: the frames that the model sees of a video."""

from dataclasses import asdict
from pathlib import Path

import click

from ..errors import OptionError
from .ask import frames_line
from .options import DecodingOptions, WindowOptions, takes
from .output import echo_json, exit_codes, warn


@click.argument("video")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="The picture to write; by default VIDEO's name with .frames.png.",
)
@click.option(
    "--size", type=click.IntRange(min=1), default=224, help="Width and height of a frame, as `info` shows it."
)
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object with all that is known.")
@takes(window=WindowOptions, decoding=DecodingOptions)
def frames(
    video: str, output: Path | None, size: int, as_json: bool, window: WindowOptions, decoding: DecodingOptions
) -> None:
    """Write the frames that the model sees, with their times, as a contact sheet. Needs no server.

    VIDEO is a file, a folder of numbered pictures, or an http(s) address.
    """
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
            click.echo(f"{frames_line(clip.info)}\nwritten to {path}")
