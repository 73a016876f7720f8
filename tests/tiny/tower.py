"""The first stage: one vision tower learns what a single frame shows, from the losses of auxiliary heads."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import CLIPVisionModel

from .heads import FRAME_LABELS, IGNORED, FrameHeads, FrameTargets, halves, label_scene, targets
from .model import FEATURE_LAYER, IMAGE_SIZE, PATCH_SIZE, draw_tower, make_vision_config, normalise
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
        self.tower = CLIPVisionModel(make_vision_config())
        draw_tower(self.tower)
        self.heads = nn.ModuleDict({"frame": FrameHeads(), "mean": FrameHeads(), "patch": FrameHeads()})

    def losses(self, rngs: Rngs, _: int) -> dict[str, torch.Tensor]:
        """The losses of one batch of frames."""
        drawn, phase = _draw_frames(rngs)
        frames = rasterise(drawn, IMAGE_SIZE, generator=rngs.torch, phases=(phase,))[:, 0]
        whole, patches = frame_targets(drawn, phase)
        with torch.autocast("cpu", torch.bfloat16):
            states = self.tower(normalise(frames), output_hidden_states=True).hidden_states[FEATURE_LAYER]
            return {
                "frame": self.heads["frame"](states[:, :1], whole),
                "mean": self.heads["mean"](states[:, 1:].mean(1, keepdim=True), whole),
                "patch": 0.5 * self.heads["patch"](states[:, 1:], patches),
            }


def _draw_frames(rngs: Rngs) -> tuple[list[Drawn], float]:
    """Pictures, clips and pairs, and the phase at which all of them are seen."""
    rng = rngs.python
    drawn: list[Drawn] = [draw_picture(rng, held_out=False) for _ in range(_NUM_PICTURES)]
    drawn += [draw_clip(rng, held_out=False) for _ in range(_NUM_CLIPS)]
    drawn += [draw_pair(rng, held_out=False, is_clip=True) for _ in range(_NUM_PAIRS)]
    return drawn, rng.random()


def frame_targets(drawn: Sequence[Drawn], phase: float) -> tuple[FrameTargets, FrameTargets]:
    """Those of the whole frame, and those of each patch: of two shapes the one in its half of the picture."""
    both = _half_targets(drawn, phase)
    left, right = both.at([0]), both.at([1])
    labels = {
        name: torch.where(left.labels[name] == right.labels[name], left.labels[name], IGNORED) for name in FRAME_LABELS
    }
    same = (left.place == right.place).all(-1, keepdim=True)
    whole = FrameTargets(labels, left.presence, left.place, left.placed * same)
    side = IMAGE_SIZE // PATCH_SIZE
    return whole, both.at([int(column >= side / 2) for _ in range(side) for column in range(side)])


def _half_targets(drawn: Sequence[Drawn], phase: float) -> FrameTargets:
    """Two tokens for each frame; those of a single shape are equal."""
    poses = [[scene.pose(phase) for scene in halves(one)] for one in drawn]
    rows = [[_label_frame(scene, one, phase) for scene in halves(one)] for one in drawn]
    presence = torch.tensor([[[float(pose.visible)] for pose in row] for row in poses])
    place = torch.tensor([[[pose.x - 0.5, pose.y - 0.5, pose.radius - 0.17] for pose in row] for row in poses])
    return FrameTargets({name: targets(rows, name) for name in FRAME_LABELS}, presence, place, presence)


def _label_frame(scene: Scene, drawn: Drawn, phase: float) -> dict[str, str]:
    """Without what this frame does not show: a hidden shape, the position of a moving one."""
    pose = scene.pose(phase)
    if not pose.visible:
        return {"background": drawn.background}
    labels = label_scene(scene, drawn) | {"color": pose.color}
    if scene.motion != "still":
        labels.pop("position", None)
    return labels
