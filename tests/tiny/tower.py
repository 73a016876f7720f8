"""The first stage: one vision tower learns to tell what a single frame shows, through heads that are thrown away."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from .model import FEATURE_LAYER, HIDDEN_SIZE, IMAGE_SIZE, PATCH_SIZE, draw_tower, make_vision_config, normalise
from .pairs import Drawn, draw_pair, halves
from .raster import rasterise
from .scenes import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES, Scene, draw_clip, draw_picture
from .stages import Chance, Stage

IGNORED = -100
# Frames of one step: of pictures, of clips and of pairs.
_PICTURES, _CLIPS, _PAIRS = 40, 40, 24
_NAMES = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "background": tuple(BACKGROUNDS),
    "size": SIZES,
    "position": POSITIONS,
    "number": ("one", "two"),
}
# The form is learned last and asked for most.
_WEIGHTS = {"shape": 3.0}
_PLACE = ("x", "y", "radius")


@dataclass(frozen=True)
class Facts:
    """What some tokens of each frame must tell.

    Attributes:
        names: Numbers of names, `IGNORED` where they cannot be told, each of shape = (frames, tokens).
        presence: 1 where a shape is seen, shape = (frames, tokens, 1).
        place: Position and size of the shape, shape = (frames, tokens, 3).
        placed: 1 where there is one such place, shape = (frames, tokens, 1).
    """

    names: dict[str, torch.Tensor]
    presence: torch.Tensor
    place: torch.Tensor
    placed: torch.Tensor


class FrameHeads(nn.Module):
    """What each state must tell: names, the place, and whether a shape is there at all."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN_SIZE)
        self.names = nn.ModuleDict({name: nn.Linear(HIDDEN_SIZE, len(values)) for name, values in _NAMES.items()})
        self.place = nn.Linear(HIDDEN_SIZE, len(_PLACE))
        self.presence = nn.Linear(HIDDEN_SIZE, 1)

    def forward(self, states: torch.Tensor, facts: Facts) -> torch.Tensor:
        """The mean loss of `states`, shape = (frames, tokens, hidden)."""
        states = self.norm(states)
        loss = sum(
            _WEIGHTS.get(name, 1.0) * name_loss(head(states).float(), facts.names[name])
            for name, head in self.names.items()
        )
        loss = loss + F.binary_cross_entropy_with_logits(self.presence(states).float(), facts.presence)
        place = self.place(states).float() - facts.place
        return loss + 10 * (place.square() * facts.placed).mean()


def name_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over what can be told, zero where that is nothing; shape = (..., names) and (...)."""
    loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), reduction="sum", ignore_index=IGNORED)
    return loss / (targets != IGNORED).sum().clamp(min=1)


class TowerTraining(nn.Module):
    """The tower and three sets of heads: on the class token, on the mean of the patches, on every patch."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(make_vision_config())
        draw_tower(self.tower)
        self.heads = nn.ModuleDict({"frame": FrameHeads(), "mean": FrameHeads(), "patch": FrameHeads()})

    def losses(self, now: Chance) -> dict[str, torch.Tensor]:
        """The losses of one batch of frames."""
        drawn, phase = draw_frames(now)
        frames = rasterise(drawn, IMAGE_SIZE, generator=now.torch, phases=(phase,))[:, 0]
        whole, patches = frame_facts(drawn, phase)
        with torch.autocast("cpu", torch.bfloat16):
            states = self.tower(normalise(frames), output_hidden_states=True).hidden_states[FEATURE_LAYER]
            return {
                "frame": self.heads["frame"](states[:, :1], whole),
                "mean": self.heads["mean"](states[:, 1:].mean(1, keepdim=True), whole),
                "patch": 0.5 * self.heads["patch"](states[:, 1:], patches),
            }


def draw_frames(now: Chance) -> tuple[list[Drawn], float]:
    """Pictures, clips and pairs, all seen at one phase."""
    rng = now.python
    drawn: list[Drawn] = [draw_picture(rng, held_out=False) for _ in range(_PICTURES)]
    drawn += [draw_clip(rng, held_out=False) for _ in range(_CLIPS)]
    drawn += [draw_pair(rng, held_out=False, is_clip=True) for _ in range(_PAIRS)]
    return drawn, rng.random()


def frame_facts(drawn: Sequence[Drawn], phase: float) -> tuple[Facts, Facts]:
    """What the whole frame must tell, and what each patch: of two shapes the one in its half of the picture."""
    both = _facts_of_halves(drawn, phase)
    left, right = (_take(both, [half]) for half in (0, 1))
    same = (left.place == right.place).all(-1, keepdim=True)
    names = {name: torch.where(left.names[name] == right.names[name], left.names[name], IGNORED) for name in _NAMES}
    whole = Facts(names, left.presence, left.place, left.placed * same)
    return whole, _take(both, _half_of_each_patch())


def _facts_of_halves(drawn: Sequence[Drawn], phase: float) -> Facts:
    """Two tokens for each frame; those of a single shape are equal."""
    poses = [[scene.pose(phase) for scene in halves(one)] for one in drawn]
    named = [[_numbers(_told(scene, one, phase)) for scene in halves(one)] for one in drawn]
    presence = torch.tensor([[[float(pose.visible)] for pose in row] for row in poses])
    return Facts(
        names={name: torch.tensor([[told[name] for told in row] for row in named]) for name in _NAMES},
        presence=presence,
        place=torch.tensor([[[pose.x - 0.5, pose.y - 0.5, pose.radius - 0.17] for pose in row] for row in poses]),
        placed=presence,
    )


def _take(facts: Facts, tokens: list[int]) -> Facts:
    names = {name: numbers[:, tokens] for name, numbers in facts.names.items()}
    return Facts(names, facts.presence[:, tokens], facts.place[:, tokens], facts.placed[:, tokens])


def _half_of_each_patch() -> list[int]:
    side = IMAGE_SIZE // PATCH_SIZE
    return [int(column >= side / 2) for _ in range(side) for column in range(side)]


def _told(scene: Scene, drawn: Drawn, phase: float) -> dict[str, str]:
    """Names by the kind of name, without what this frame does not show or what is ambiguous."""
    pose = scene.pose(phase)
    told = {"background": drawn.background}
    if not pose.visible:
        return told
    told |= {"shape": scene.shape, "color": pose.color, "number": "one" if len(drawn.parts) == 1 else "two"}
    if len(drawn.parts) == 1 and scene.size:
        told["size"] = scene.size
    if len(drawn.parts) == 1 and scene.motion == "still":
        told["position"] = scene.position
    return told


def _numbers(told: dict[str, str]) -> dict[str, int]:
    return {name: values.index(told[name]) if name in told else IGNORED for name, values in _NAMES.items()}


def tower_stage(num_steps: int) -> tuple[TowerTraining, Stage]:
    """The training that gives both towers their weights, and its stage."""
    training = TowerTraining()
    return training, Stage(
        name="tower",
        module=training,
        trained=tuple(training.named_parameters()),
        loss=lambda now, _: training.losses(now),
        num_steps=num_steps,
    )
