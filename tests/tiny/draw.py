"""Draw a few clips and a picture to ask about, with a contact sheet to check the answers by.

    PYTHONPATH=tests python -m tiny.draw DIR [--seed 2]

All of them are combinations that are held out from the training.
"""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from PIL.Image import Image

from .files import JPEG_QUALITY, write_clip, write_contact_sheet
from .painter import paint
from .pair_questions import describe_pair
from .pairs import Drawn, Pair, draw_pair
from .questions import describe_clip, describe_picture
from .scenes import NUM_FRAMES, Scene, draw_clip, draw_picture

MOTIONS = ("left", "grow", "change")
# With this seed, no two files of one shape show the same shape.
SEED = 2
_WIDTH, _HEIGHT, _NUM_FRAMES = 320, 240, 32


@dataclass(frozen=True)
class Drawings:
    """What the files show: `clip-1.mp4` and further ones, `picture.jpg`, and `pair.mp4`."""

    clips: dict[str, Scene]
    picture: Scene
    pair: Pair


def draw_files(folder: Path, *, seed: int = SEED) -> Drawings:
    """Write the files and `contact-sheet.png` into `folder`."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    scenes = [draw_clip(rng, held_out=True, motion=motion) for motion in MOTIONS]
    clips = {f"clip-{number}.mp4": scene for number, scene in enumerate(scenes, start=1)}
    drawings = Drawings(clips, draw_picture(rng, held_out=True), draw_pair(rng, held_out=True, is_clip=True))
    rows = [_draw_clip(folder / name, scene, describe_clip(scene)) for name, scene in clips.items()]
    rows.append(_draw_clip(folder / "pair.mp4", drawings.pair, describe_pair(drawings.pair, is_clip=True)))
    (picture,) = paint(drawings.picture, width=_WIDTH, height=_HEIGHT, num_frames=1)
    picture.save(folder / "picture.jpg", quality=JPEG_QUALITY)
    rows.append((f"picture.jpg: {describe_picture(drawings.picture)}", [picture]))
    write_contact_sheet(folder / "contact-sheet.png", rows)
    return drawings


def _draw_clip(path: Path, drawn: Drawn, description: str) -> tuple[str, list[Image]]:
    """Write one clip; return its row of the contact sheet."""
    frames = paint(drawn, width=_WIDTH, height=_HEIGHT, num_frames=_NUM_FRAMES)
    write_clip(path, frames)
    return f"{path.name}: {description}", frames[:: _NUM_FRAMES // NUM_FRAMES]


def command(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where to write the files")],
    seed: Annotated[int, typer.Option(help="Another seed draws other scenes")] = SEED,
) -> None:
    """Draw clips and a picture to ask about."""
    drawings = draw_files(folder, seed=seed)
    for name in (*drawings.clips, "pair.mp4", "picture.jpg"):
        typer.echo(folder / name)
    typer.echo(f"{folder / 'contact-sheet.png'} shows the {NUM_FRAMES} frames of each that the model sees")


if __name__ == "__main__":
    typer.run(command)
