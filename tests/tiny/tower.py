"""The first stage: one vision tower learns what a single frame shows, from the losses of auxiliary heads."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import CLIPVisionModel

from .heads import FRAME_LABELS, IGNORED, FrameHeads, Targets, halves, index_labels, label_scene
from .model import IMAGE_SIZE, PATCHES_PER_SIDE, VISION_CONFIG, draw_tower, tower_features
from .pairs import Drawn, draw_pair
from .raster import rasterise
from .scenes import Scene, draw_clip, draw_picture
from .stages import Rngs

# Frames of one step.
_NUM_PICTURES, _NUM_CLIPS, _NUM_PAIRS = 40, 40, 24


class TowerTraining(nn.Module):
    """The tower and three sets of heads: on the class token, on the mean of the patches, on each patch."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = CLIPVisionModel(VISION_CONFIG)
        draw_tower(self.tower)
        self.heads = nn.ModuleDict({"frame": FrameHeads(), "mean": FrameHeads(), "patch": FrameHeads()})

    def losses(self, rngs: Rngs, _: int) -> dict[str, torch.Tensor]:
        """The losses of one batch of frames, all of one phase."""
        rng = rngs.python
        drawn: list[Drawn] = [draw_picture(rng, held_out=False) for _ in range(_NUM_PICTURES)]
        drawn += [draw_clip(rng, held_out=False) for _ in range(_NUM_CLIPS)]
        drawn += [draw_pair(rng, held_out=False, is_clip=True) for _ in range(_NUM_PAIRS)]
        phase = rng.random()
        frames = rasterise(drawn, IMAGE_SIZE, generator=rngs.torch, phases=(phase,))[:, 0]
        whole, patches = frame_targets(drawn, phase)
        with torch.autocast("cpu", torch.bfloat16):
            features = tower_features(self.tower, frames)
            return {
                "frame": self.heads["frame"](features[:, :1], whole),
                "mean": self.heads["mean"](features[:, 1:].mean(1, keepdim=True), whole),
                "patch": 0.5 * self.heads["patch"](features[:, 1:], patches),
            }


def frame_targets(drawn: Sequence[Drawn], phase: float) -> tuple[Targets, Targets]:
    """Those of the whole frame, and those of each patch: of two shapes the one in its half of the picture."""
    both = _half_targets(drawn, phase)
    left, right = ({name: wanted[:, [half]] for name, wanted in both.items()} for half in (0, 1))
    whole = left | {name: torch.where(left[name] == right[name], left[name], IGNORED) for name in FRAME_LABELS}
    whole["placed"] = left["placed"] * (left["place"] == right["place"]).all(-1, keepdim=True)
    half_of_patch = [int(2 * column >= PATCHES_PER_SIDE) for column in range(PATCHES_PER_SIDE)] * PATCHES_PER_SIDE
    return whole, {name: wanted[:, half_of_patch] for name, wanted in both.items()}


def _half_targets(drawn: Sequence[Drawn], phase: float) -> Targets:
    """Two tokens for each frame; those of a single shape are equal."""
    poses = [[scene.pose(phase) for scene in halves(one)] for one in drawn]
    rows = [[_label_frame(scene, one, phase) for scene in halves(one)] for one in drawn]
    visible = torch.tensor([[[float(pose.visible)] for pose in row] for row in poses])
    place = torch.tensor([[[pose.x - 0.5, pose.y - 0.5, pose.radius - 0.17] for pose in row] for row in poses])
    labels = {name: index_labels(rows, name) for name in FRAME_LABELS}
    return labels | {"visible": visible, "place": place, "placed": visible}


def _label_frame(scene: Scene, drawn: Drawn, phase: float) -> dict[str, str]:
    """Without what this frame does not show: a hidden shape, the position of a moving one."""
    pose = scene.pose(phase)
    if not pose.visible:
        return {"background": drawn.background}
    labels = label_scene(scene, drawn) | {"color": pose.color}
    return labels if scene.motion == "still" else {name: labels[name] for name in labels if name != "position"}
