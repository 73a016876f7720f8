"""Auxiliary heads, used in the training only: they predict from hidden states what a frame, clip or picture shows."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .model import HIDDEN_SIZE
from .pairs import Drawn
from .scenes import BACKGROUNDS, COLORS, MOTIONS, POSITIONS, SHAPES, SIZES, Scene

# What the heads must predict for some tokens of each frame:
# a label's name -> indices of its values, shape = (frames, tokens);
# "visible" -> 1 where a shape is, "placed" -> 1 where there is one place, shape = (frames, tokens, 1);
# "place" -> position and size of the shape, shape = (frames, tokens, 3).
Targets = dict[str, torch.Tensor]

# The index of a label that cannot be told.
IGNORED = -100
# Labels and their values.
LABELS = {
    "motion": MOTIONS,
    "shape": SHAPES,
    "color": tuple(COLORS),
    "last color": tuple(COLORS),
    "background": tuple(BACKGROUNDS),
    "size": SIZES,
    "position": POSITIONS,
    "number": ("one", "two"),
}
_OF_CLIPS = ("motion", "last color")
FRAME_LABELS = tuple(name for name in LABELS if name not in _OF_CLIPS)
_CLIP_LABELS = tuple(name for name in LABELS if name != "position")
# The shape is learned last, so it weighs most.
_FRAME_WEIGHTS = {"shape": 3.0}


def halves(drawn: Drawn) -> tuple[Scene, Scene]:
    """What is in the left and in the right half of the picture; a single shape counts for both."""
    return drawn.parts[0], drawn.parts[-1]


def label_scene(scene: Scene, drawn: Drawn) -> dict[str, str]:
    """The labels of `scene`, a part of `drawn`; those of a pair leave out size and position."""
    labels = {"shape": scene.shape, "motion": scene.motion, "color": scene.color, "last color": scene.end.color}
    labels["background"] = drawn.background
    if len(drawn.parts) == 2:
        return labels | {"number": "two"}
    labels |= {"number": "one", "position": scene.position}
    return labels | {"size": scene.size} if scene.size else labels


def index_labels(rows: Iterable[Iterable[dict[str, str]]], name: str) -> torch.Tensor:
    """Indices of one label's values, `IGNORED` where it is missing, shape = (rows, columns)."""
    values = LABELS[name]
    return torch.tensor([[values.index(one[name]) if name in one else IGNORED for one in row] for row in rows])


def label_loss(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the targets that are not `IGNORED`, 0 without any; shapes (..., values) and (...)."""
    loss = F.cross_entropy(logits.flatten(0, -2), wanted.flatten(), reduction="sum", ignore_index=IGNORED)
    return loss / (wanted != IGNORED).sum().clamp(min=1)


class FrameHeads(nn.Module):
    """For the tower: labels, place, and whether a shape is visible."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN_SIZE)
        self.labels = nn.ModuleDict({name: nn.Linear(HIDDEN_SIZE, len(LABELS[name])) for name in FRAME_LABELS})
        self.place = nn.Linear(HIDDEN_SIZE, 3)
        self.visible = nn.Linear(HIDDEN_SIZE, 1)

    def forward(self, states: torch.Tensor, wanted: Targets) -> torch.Tensor:
        """The mean loss of `states`, shape = (frames, tokens, hidden)."""
        states = self.norm(states)
        loss = sum(
            _FRAME_WEIGHTS.get(name, 1.0) * label_loss(head(states).float(), wanted[name])
            for name, head in self.labels.items()
        )
        loss = loss + F.binary_cross_entropy_with_logits(self.visible(states).float(), wanted["visible"])
        error = self.place(states).float() - wanted["place"]
        return loss + 10 * (error.square() * wanted["placed"]).mean()


class MediaHeads(nn.Module):
    """For the language model: place and speed after each frame, labels after the medium, both for each half.

    A single shape counts for both halves; so pairs add only the choice of a half.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN_SIZE)
        self.labels = nn.ModuleDict({name: nn.Linear(HIDDEN_SIZE, 2 * len(LABELS[name])) for name in LABELS})
        self.tracks = nn.Linear(HIDDEN_SIZE, 2 * 6)

    def label_loss(self, states: torch.Tensor, drawn: Sequence[Drawn], *, are_clips: bool) -> torch.Tensor:
        """Loss of the labels; `states` of the media's last tokens, shape = (media, hidden)."""
        states = self.norm(states)
        rows = [[label_scene(scene, one) for scene in halves(one)] for one in drawn]
        losses = []
        for name in _CLIP_LABELS if are_clips else FRAME_LABELS:
            logits = self.labels[name](states).float().unflatten(1, (2, -1))
            losses.append(label_loss(logits, index_labels(rows, name)))
        return torch.stack(losses).sum()

    def track_loss(self, states: torch.Tensor, clips: Sequence[Drawn]) -> torch.Tensor:
        """Loss of place and speed; `states` of the frames' last tokens, shape = (clips, frames, hidden)."""
        places = torch.tensor([[_track(scene) for scene in halves(clip)] for clip in clips]).movedim(1, 2)
        speeds = 7 * (places[:, 1:] - places[:, :-1])
        predicted = self.tracks(self.norm(states)).float().unflatten(-1, (2, 6))
        place_error, speed_error = predicted[..., :3] - places, predicted[:, 1:, :, 3:] - speeds
        return 10 * (place_error.square().mean() + speed_error.square().mean())


def _track(scene: Scene) -> list[list[float]]:
    return [[pose.x - 0.5, pose.y - 0.5, 2 * pose.radius - 0.34] for pose in scene.poses()]
