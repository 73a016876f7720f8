"""The training's rasteriser: many frames at once, at the model's input size, from signed distances in torch."""

import math
from collections.abc import Sequence

import torch

from .pairs import Drawn
from .scenes import COLORS, NUM_FRAMES, SHAPES, Scene

PHASES = tuple(index / NUM_FRAMES for index in range(NUM_FRAMES))
_STAR_NOTCH = 0.45


def rasterise(
    drawn: Sequence[Drawn], size: int, *, generator: torch.Generator, phases: Sequence[float] = PHASES
) -> torch.Tensor:
    """All clips at all phases with a little noise and blur, uint8, shape = (clips, phases, size, size, 3)."""
    steps = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    background = _backgrounds([one.parts[0] for one in drawn], x, y)
    frames = background[:, None, :, :, None].expand(-1, len(phases), -1, -1, 3).clone()
    for layer in range(max(len(one.parts) for one in drawn)):
        rows = [row for row, one in enumerate(drawn) if len(one.parts) > layer]
        colors, opacity = _layer([drawn[row].parts[layer] for row in rows], x, y, phases, generator)
        frames[rows] = torch.lerp(frames[rows], colors, opacity)
    noise = 5 * torch.rand(len(frames), 1, 1, 1, 1, generator=generator)
    frames += noise * torch.randn(frames.shape, generator=generator)
    return frames.round().clamp(0, 255).to(torch.uint8)


def _layer(
    scenes: Sequence[Scene], x: torch.Tensor, y: torch.Tensor, phases: Sequence[float], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour and opacity of one shape of each clip; both broadcast to (clips, phases, size, size, 3)."""
    poses = [[scene.pose(phase) for phase in phases] for scene in scenes]
    place = torch.tensor([[[p.x, p.y, p.radius] for p in row] for row in poses])[:, :, None, None]
    visible = torch.tensor([[float(p.visible) for p in row] for row in poses])[..., None, None]
    tints = torch.tensor([scene.tint for scene in scenes], dtype=torch.float64)[:, None]
    colors = (torch.tensor([[COLORS[p.color] for p in row] for row in poses]) + tints).float()
    u, v = (x - place[..., 0]) / place[..., 2], (y - place[..., 1]) / place[..., 2]
    distance = torch.empty_like(u)
    for shape in SHAPES:
        rows = torch.tensor([scene.shape == shape for scene in scenes])
        if rows.any():
            distance[rows] = _DISTANCES[shape](u[rows], v[rows])
    softness = 0.7 + 0.8 * torch.rand(len(scenes), 1, 1, 1, generator=generator)
    opacity = (0.5 - distance * place[..., 2] * len(x) / softness).clamp(0, 1) * visible
    return colors[:, :, None, None], opacity[..., None]


def _backgrounds(scenes: Sequence[Scene], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Gradients, shape = (scenes, size, size)."""
    angle = torch.tensor([scene.shade_angle for scene in scenes])[:, None, None]
    shades = torch.tensor([scene.shades for scene in scenes])[:, :, None, None]
    across = 0.5 + (x - 0.5) * torch.cos(angle) + (y - 0.5) * torch.sin(angle)
    return torch.lerp(shades[:, 0], shades[:, 1], across.clamp(0, 1))


def _triangle(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Corners (0, -1) and (+-0.95, 0.75)."""
    return torch.maximum(v - 0.75, (1.75 * u.abs() - 0.95 * (v + 1)) / math.hypot(1.75, 0.95))


def _cross(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    wide, narrow = torch.maximum(u.abs(), v.abs()) - 1, torch.minimum(u.abs(), v.abs()) - 0.35
    return torch.maximum(wide, narrow)


def _star(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Five points, one upwards: the plane is folded onto half a point."""
    half = math.pi / 5
    angle = (torch.atan2(u, -v) % (2 * half) - half).abs()
    along, aside = torch.hypot(u, v) * torch.cos(half - angle), torch.hypot(u, v) * torch.sin(half - angle)
    notch_along, notch_aside = _STAR_NOTCH * math.cos(half), _STAR_NOTCH * math.sin(half)
    edge = math.hypot(1 - notch_along, notch_aside)
    return (notch_aside * (along - 1) + (1 - notch_along) * aside) / edge


# Signed distance from each shape's edge, in radii.
_DISTANCES = {
    "circle": lambda u, v: torch.hypot(u, v) - 1,
    "square": lambda u, v: torch.maximum(u.abs(), v.abs()) - 0.85,
    "triangle": _triangle,
    "diamond": lambda u, v: (u.abs() + v.abs() - 1.1) * math.sqrt(0.5),
    "star": _star,
    "cross": _cross,
}
