"""Two shapes side by side on one background, unlike in shape and colour; in a clip one of them moves up or down."""

import random
from dataclasses import dataclass, replace

from .scenes import Scene, draw_clip

_MOTIONS = ("up", "down")
# Ranges of x for the left and the right shape.
_COLUMNS = ((0.22, 0.32), (0.68, 0.78))
_RADIUS = (0.12, 0.18)


@dataclass(frozen=True)
class Pair:
    """What a clip or a picture of two shapes shows."""

    left: Scene
    right: Scene

    @property
    def parts(self) -> tuple[Scene, Scene]:
        """Both, in the order in which they are drawn."""
        return self.left, self.right

    @property
    def background(self) -> str:
        return self.left.background

    @property
    def mover(self) -> Scene:
        """The one that moves; in a picture the left one."""
        return self.left if self.right.motion == "still" else self.right

    def other(self, scene: Scene) -> Scene:
        return self.right if scene is self.left else self.left


# What a clip or a picture shows.
Drawn = Scene | Pair


def draw_pair(rng: random.Random, *, held_out: bool, is_clip: bool) -> Pair:
    """A random pair of which both shapes are held out from the training, or neither."""
    motions = [rng.choice(_MOTIONS) if is_clip else "still", "still"]
    rng.shuffle(motions)
    left, right = (_draw_part(rng, held_out, *part) for part in zip(motions, _COLUMNS, strict=True))
    while left.shape == right.shape or left.color == right.color:
        right = _draw_part(rng, held_out, right.motion, _COLUMNS[1])
    return Pair(left, replace(right, background=left.background, shades=left.shades, shade_angle=left.shade_angle))


def _draw_part(rng: random.Random, held_out: bool, motion: str, column: tuple[float, float]) -> Scene:
    scene = draw_clip(rng, held_out=held_out, motion=motion)
    place = {"x": rng.uniform(*column), "radius": rng.uniform(*_RADIUS)}
    return replace(scene, start=replace(scene.start, **place), end=replace(scene.end, **place))
