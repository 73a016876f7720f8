"""The exam's rasteriser: Pillow's polygons, larger than the model's input, independent of the training's."""

import math

import numpy as np
from PIL import Image, ImageDraw

from .pairs import Drawn
from .scenes import COLORS, Pose, Scene

_SUPERSAMPLING = 3
# Distance of a shape's farthest corner from its middle, in radii, rounded up.
_REACH = 1.25
_STAR_NOTCH = 0.45
_ARM = 0.35
_STAR = [(reach, math.pi * corner / 5) for corner, reach in enumerate((1.0, _STAR_NOTCH) * 5)]
# Corners in radii from the middle; y points down.
_CORNERS = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)],
    "diamond": [(0.0, -1.1), (1.1, 0.0), (0.0, 1.1), (-1.1, 0.0)],
    "star": [(reach * math.sin(angle), -reach * math.cos(angle)) for reach, angle in _STAR],
    "cross": [
        (-_ARM, -1.0), (_ARM, -1.0), (_ARM, -_ARM), (1.0, -_ARM), (1.0, _ARM), (_ARM, _ARM),
        (_ARM, 1.0), (-_ARM, 1.0), (-_ARM, _ARM), (-1.0, _ARM), (-1.0, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip


def paint(drawn: Drawn, *, width: int, height: int, num_frames: int) -> list[Image.Image]:
    """The clip's frames; the scene fills the central square, which is what the model sees."""
    background = _background(drawn.parts[0], width, height)
    return [_paint_frame(background, drawn, index / num_frames) for index in range(num_frames)]


def _background(scene: Scene, width: int, height: int) -> Image.Image:
    side = min(width, height)
    across = (np.arange(width) - width / 2) / side * math.cos(scene.shade_angle)
    down = (np.arange(height) - height / 2) / side * math.sin(scene.shade_angle)
    ramp = np.clip(0.5 + across[None] + down[:, None], 0, 1)
    shade = scene.shades[0] + (scene.shades[1] - scene.shades[0]) * ramp
    return Image.fromarray(np.clip(np.rint(shade), 0, 255).astype(np.uint8)).convert("RGB")


def _paint_frame(background: Image.Image, drawn: Drawn, phase: float) -> Image.Image:
    frame = background.copy()
    for scene in drawn.parts:
        pose = scene.pose(phase)
        if pose.visible:
            mask, corner = _mask(scene.shape, pose, frame.size)
            color = np.clip(np.rint(np.add(COLORS[pose.color], scene.tint)), 0, 255)
            frame.paste(tuple(map(int, color)), (*corner, corner[0] + mask.width, corner[1] + mask.height), mask)
    return frame


def _mask(shape: str, pose: Pose, size: tuple[int, int]) -> tuple[Image.Image, tuple[int, int]]:
    """The shape's opacity, with soft edges from supersampling, and the mask's upper left corner in the picture."""
    width, height = size
    side = min(width, height)
    x, y, radius = (width - side) / 2 + pose.x * side, (height - side) / 2 + pose.y * side, pose.radius * side
    reach = math.ceil(radius * _REACH) + 1
    corner = math.floor(x) - reach, math.floor(y) - reach
    x, y, radius = ((value * _SUPERSAMPLING) for value in (x - corner[0], y - corner[1], radius))
    mask = Image.new("L", (_SUPERSAMPLING * 2 * reach, _SUPERSAMPLING * 2 * reach))
    pen = ImageDraw.Draw(mask)
    if shape == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    else:
        pen.polygon([(x + radius * u, y + radius * v) for u, v in _CORNERS[shape]], fill=255)
    return mask.reduce(_SUPERSAMPLING), corner
