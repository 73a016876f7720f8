"""A few clips and a picture to ask about, as real files, with a contact sheet to check the answers by.

    python -m video_llava_tiny.draw DIR [--seed 0]

All show combinations that the training never did.
"""

import random
import sys
from pathlib import Path
from typing import Annotated

import typer

from .files import write_clip, write_contact_sheet, write_picture
from .painter import paint
from .questions import describe_clip, describe_picture
from .scenes import NUM_FRAMES, Scene, draw_clip, draw_picture

MOTIONS = ("left", "grow", "change")
_WIDTH, _HEIGHT, _NUM_FRAMES = 320, 240, 32


def draw_files(folder: Path, *, seed: int = 0) -> dict[str, Scene]:
    """Write `clip-1.mp4`, ..., `picture.jpg` and `contact-sheet.png`; return what the first ones show, by name."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    scenes = {
        f"clip-{number}.mp4": draw_clip(rng, held_out=True, motion=motion)
        for number, motion in enumerate(MOTIONS, start=1)
    }
    rows = []
    for name, scene in scenes.items():
        frames = paint(scene, width=_WIDTH, height=_HEIGHT, num_frames=_NUM_FRAMES)
        write_clip(folder / name, frames)
        rows.append((f"{name}: {describe_clip(scene)}", frames[:: _NUM_FRAMES // NUM_FRAMES]))
    scenes["picture.jpg"] = draw_picture(rng, held_out=True)
    picture = paint(scenes["picture.jpg"], width=_WIDTH, height=_HEIGHT, num_frames=1)
    write_picture(folder / "picture.jpg", picture[0])
    rows.append((f"picture.jpg: {describe_picture(scenes['picture.jpg'])}", picture))
    write_contact_sheet(folder / "contact-sheet.png", rows)
    return scenes


app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def command(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where to write the files")],
    seed: Annotated[int, typer.Option(help="Another seed draws other scenes")] = 0,
) -> None:
    """Draw clips and a picture to ask about."""
    for name in draw_files(folder, seed=seed):
        typer.echo(folder / name)
    typer.echo(f"{folder / 'contact-sheet.png'} shows the eight frames of each that the model sees")


if __name__ == "__main__":
    sys.exit(app())
