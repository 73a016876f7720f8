"""Two shapes side by side on one background, no two of one form or colour; in a clip exactly one of them moves."""

import random
from dataclasses import dataclass, replace

from .scenes import Scene, draw_clip

_MOTIONS = ("up", "down")
_LANES = ((0.22, 0.32), (0.68, 0.78))
_RADIUS = (0.12, 0.18)


@dataclass(frozen=True)
class Pair:
    """What a clip or a picture of two shapes shows; the background is that of `left`."""

    left: Scene
    right: Scene

    @property
    def parts(self) -> tuple[Scene, Scene]:
        """Both, in the order in which they are drawn."""
        return self.left, self.right

    @property
    def background(self) -> str:
        """The background's name."""
        return self.left.background

    @property
    def mover(self) -> Scene:
        """The one that moves; the left one of a picture."""
        return self.left if self.right.motion == "still" else self.right

    def other(self, scene: Scene) -> Scene:
        """The one that is not `scene`."""
        return self.right if scene is self.left else self.left

    def reversed(self) -> "Pair":
        """What is seen when the clip's frames are shown backwards."""
        return Pair(self.left.reversed(), self.right.reversed())


# What a clip or a picture shows.
Drawn = Scene | Pair


def halves(drawn: Drawn) -> tuple[Scene, Scene]:
    """What is in the left half and in the right half of the picture; a single shape counts for both."""
    return drawn.parts[0], drawn.parts[-1]


def draw_pair(rng: random.Random, *, held_out: bool, is_clip: bool) -> Pair:
    """A random pair; each shape's combination of form, colour and motion is of the same side of the split."""
    motions = [rng.choice(_MOTIONS) if is_clip else "still", "still"]
    rng.shuffle(motions)
    left, right = (_draw_part(rng, held_out, motion, lane) for motion, lane in zip(motions, _LANES, strict=True))
    while left.shape == right.shape or left.color == right.color:
        right = _draw_part(rng, held_out, right.motion, _LANES[1])
    looks = {"background": left.background, "shades": left.shades, "shade_angle": left.shade_angle}
    return Pair(left, replace(right, **looks))


def _draw_part(rng: random.Random, held_out: bool, motion: str, lane: tuple[float, float]) -> Scene:
    scene = draw_clip(rng, held_out=held_out, motion=motion)
    place = {"x": rng.uniform(*lane), "radius": rng.uniform(*_RADIUS)}
    return replace(scene, start=replace(scene.start, **place), end=replace(scene.end, **place))
