"""Throw-away heads of the language model: what its states must tell about the media before any question is asked."""

from collections.abc import Sequence

import torch
from torch import nn

from .model import HIDDEN_SIZE
from .pairs import Drawn, halves
from .scenes import BACKGROUNDS, COLORS, MOTIONS, POSITIONS, SHAPES, SIZES, Scene
from .tower import IGNORED, name_loss

_NAMES = {
    "motion": MOTIONS,
    "shape": SHAPES,
    "color": tuple(COLORS),
    "last color": tuple(COLORS),
    "background": tuple(BACKGROUNDS),
    "size": SIZES,
    "position": POSITIONS,
    "number": ("one", "two"),
}
# Those that are told of pictures, or of clips, only.
_OF_PICTURES, _OF_CLIPS = ("position",), ("motion", "last color")


class SightHeads(nn.Module):
    """Place and speed at the end of each frame, names at the end of the medium, for both halves of the picture.

    A single shape is told of both halves, so that which of two is meant is the only thing new about pairs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN_SIZE)
        self.names = nn.ModuleDict({name: nn.Linear(HIDDEN_SIZE, 2 * len(values)) for name, values in _NAMES.items()})
        self.tracks = nn.Linear(HIDDEN_SIZE, 2 * 6)

    def name_loss(self, states: torch.Tensor, drawn: Sequence[Drawn], *, are_clips: bool) -> torch.Tensor:
        """Loss of the names; `states` of the media's last tokens, shape = (media, hidden)."""
        states = self.norm(states)
        rows = [[_numbers(_told(scene, one)) for scene in halves(one)] for one in drawn]
        left_out = _OF_PICTURES if are_clips else _OF_CLIPS
        losses = [
            name_loss(
                head(states).float().unflatten(1, (2, -1)),
                torch.tensor([[half[name] for half in row] for row in rows]),
            )
            for name, head in self.names.items()
            if name not in left_out
        ]
        return torch.stack(losses).sum()

    def track_loss(self, states: torch.Tensor, drawn: Sequence[Drawn]) -> torch.Tensor:
        """Loss of place and speed; `states` of the frames' last tokens, shape = (clips, frames, hidden)."""
        places = torch.tensor([[_track(scene) for scene in halves(one)] for one in drawn]).movedim(1, 2)
        speeds = 7 * (places[:, 1:] - places[:, :-1])
        told = self.tracks(self.norm(states)).float().unflatten(-1, (2, 6))
        return 10 * ((told[..., :3] - places).square().mean() + (told[:, 1:, :, 3:] - speeds).square().mean())


def _track(scene: Scene) -> list[list[float]]:
    return [[pose.x - 0.5, pose.y - 0.5, 2 * pose.radius - 0.34] for pose in scene.poses()]


def _told(scene: Scene, drawn: Drawn) -> dict[str, str]:
    told = {
        "motion": scene.motion,
        "shape": scene.shape,
        "color": scene.color,
        "last color": scene.end.color,
        "background": drawn.background,
        "number": "one" if len(drawn.parts) == 1 else "two",
    }
    if len(drawn.parts) == 1:
        told["position"] = scene.position
        if scene.size:
            told["size"] = scene.size
    return told


def _numbers(told: dict[str, str]) -> dict[str, int]:
    return {name: values.index(told[name]) if name in told else IGNORED for name, values in _NAMES.items()}
