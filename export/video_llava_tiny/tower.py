"""The first stage: one vision tower learns to tell what a single frame shows, through heads that are thrown away."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPVisionModel

from .model import FEATURE_LAYER, HIDDEN_SIZE, IMAGE_SIZE, draw_tower, make_vision_config, normalise
from .raster import rasterise
from .scenes import BACKGROUNDS, COLORS, POSITIONS, SHAPES, SIZES, Scene, draw_clip, draw_picture
from .stages import Chance, Stage

IGNORED = -100
_BATCH = 96
_NAMES = {
    "shape": SHAPES,
    "color": tuple(COLORS),
    "background": tuple(BACKGROUNDS),
    "size": SIZES,
    "position": POSITIONS,
}
_PLACE = ("x", "y", "radius")


class FrameHeads(nn.Module):
    """What each state must tell about its frame: names, the place, and whether a shape is there at all."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN_SIZE)
        self.names = nn.ModuleDict({name: nn.Linear(HIDDEN_SIZE, len(values)) for name, values in _NAMES.items()})
        self.place = nn.Linear(HIDDEN_SIZE, len(_PLACE))
        self.presence = nn.Linear(HIDDEN_SIZE, 1)

    def forward(self, states: torch.Tensor, facts: dict[str, torch.Tensor]) -> torch.Tensor:
        """The mean loss of `states`, shape = (frames, tokens, hidden)."""
        states = self.norm(states)
        num_tokens = states.shape[1]
        loss = sum(
            F.cross_entropy(head(states).flatten(0, 1).float(), facts[name].repeat_interleave(num_tokens))
            for name, head in self.names.items()
        )
        seen = facts["presence"][:, None, None].expand(-1, num_tokens, -1)
        loss = loss + F.binary_cross_entropy_with_logits(self.presence(states).float(), seen)
        place = self.place(states).float() - facts["place"][:, None]
        return loss + 10 * (place.square() * seen).mean()


class TowerTraining(nn.Module):
    """The tower and three sets of heads: on the class token, on the mean of the patches, on every patch."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(make_vision_config())
        draw_tower(self.tower)
        self.heads = nn.ModuleDict({"frame": FrameHeads(), "mean": FrameHeads(), "patch": FrameHeads()})

    def losses(self, now: Chance) -> dict[str, torch.Tensor]:
        """The losses of one batch of frames."""
        scenes, phase = draw_frames(now)
        frames = rasterise(scenes, IMAGE_SIZE, generator=now.torch, phases=(phase,))[:, 0]
        facts = frame_facts(scenes, phase)
        with torch.autocast("cpu", torch.bfloat16):
            states = self.tower(normalise(frames), output_hidden_states=True).hidden_states[FEATURE_LAYER]
            patches = states[:, 1:]
            return {
                "frame": self.heads["frame"](states[:, :1], facts),
                "mean": self.heads["mean"](patches.mean(1, keepdim=True), facts),
                "patch": 0.5 * self.heads["patch"](patches, facts),
            }


def draw_frames(now: Chance) -> tuple[list[Scene], float]:
    """Half pictures, half clips, all seen at one phase."""
    rng = now.python
    pictures = [draw_picture(rng, held_out=False) for _ in range(_BATCH // 2)]
    return pictures + [draw_clip(rng, held_out=False) for _ in range(_BATCH // 2)], rng.random()


def frame_facts(scenes: Sequence[Scene], phase: float) -> dict[str, torch.Tensor]:
    """What the heads must tell; names that cannot be told are `IGNORED`."""
    poses = [scene.pose(phase) for scene in scenes]
    named = [_names(scene, phase, is_picture=index < _BATCH // 2) for index, scene in enumerate(scenes)]
    facts = {name: torch.tensor([row[name] for row in named]) for name in _NAMES}
    facts["place"] = torch.tensor([[pose.x - 0.5, pose.y - 0.5, pose.radius - 0.17] for pose in poses])
    facts["presence"] = torch.tensor([float(pose.visible) for pose in poses])
    return facts


def _names(scene: Scene, phase: float, *, is_picture: bool) -> dict[str, int]:
    pose = scene.pose(phase)
    told = {"background": scene.background}
    if pose.visible:
        told |= {"shape": scene.shape, "color": pose.color}
        if scene.size:
            told["size"] = scene.size
        if is_picture:
            told["position"] = scene.position
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
