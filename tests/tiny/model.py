"""The model's configuration, which is that of the committed checkpoint, and its initial weights."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionModel, VideoLlavaConfig
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

CHECKPOINT = Path(__file__).parent / "checkpoint"
# Attention is eager, since fused attention with a mask trains slowly on a CPU.
CONFIG = VideoLlavaConfig.from_pretrained(CHECKPOINT, dtype=torch.float32, attn_implementation="eager")
VISION_CONFIG: Any = CONFIG.vision_config  # a dict as well, by its type
IMAGE_SIZE: int = VISION_CONFIG.image_size
PATCHES_PER_SIDE = IMAGE_SIZE // VISION_CONFIG.patch_size
NUM_PATCHES = PATCHES_PER_SIDE**2
# The towers and the language model have the same.
HIDDEN_SIZE: int = VISION_CONFIG.hidden_size


@torch.no_grad()
def draw_weights(module: nn.Module) -> None:
    """Random matrices that keep the scale of their input; they learn far faster than the default ones."""
    for name, weight in module.named_parameters():
        if weight.ndim == 2 and "embed" not in name:
            weight.normal_(0, weight.shape[1] ** -0.5)
        elif "embed_tokens" in name:
            weight.normal_(0, 0.5)
        elif name.endswith("bias"):
            weight.zero_()


@torch.no_grad()
def draw_tower(tower: CLIPVisionModel) -> None:
    """Random weights; the position embeddings start as sines of row and column, which are slow to learn."""
    draw_weights(tower)
    inner: Any = getattr(tower, "vision_model", tower)  # transformers 4 has one module more
    embeddings = inner.embeddings
    patches = embeddings.patch_embedding.weight
    patches.normal_(0, patches[0].numel() ** -0.5)
    embeddings.class_embedding.normal_(0, 0.5)
    positions = embeddings.position_embedding.weight
    positions.normal_(0, 0.02)
    positions[1:] += _grid_of_sines()


def _grid_of_sines() -> torch.Tensor:
    """Half of the channels for the row, half for the column, shape = (patches, hidden)."""
    rates = math.pi / PATCHES_PER_SIDE * 2.0 ** -torch.arange(-2, 2).repeat_interleave(HIDDEN_SIZE // 16)
    steps = torch.arange(PATCHES_PER_SIDE) + 0.5
    row, column = torch.meshgrid(steps, steps, indexing="ij")
    waves = [wave(index.reshape(-1, 1) * rates) for index in (row, column) for wave in (torch.sin, torch.cos)]
    return 0.5 * torch.cat(waves, dim=1)


def tower_features(tower: CLIPVisionModel, frames: torch.Tensor) -> torch.Tensor:
    """The features of frames, class token first, shape = (frames, 1 + patches, hidden).

    `frames` are uint8, shape = (frames, height, width, 3).
    """
    pixels = (frames.float() / 255 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)
    states = tower(pixels.movedim(-1, -3), output_hidden_states=True).hidden_states
    return states[CONFIG.vision_feature_layer]
