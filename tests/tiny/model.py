"""The model's dimensions and its initial weights."""

import math
from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, VideoLlavaConfig
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from .scenes import NUM_FRAMES

IMAGE_SIZE = 56
PATCH_SIZE = 14
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
HIDDEN_SIZE = 128
# With a mask, fused attention trains slowly on a CPU.
_EAGER: dict[str, Any] = {"attn_implementation": "eager"}
# The layer of the towers whose states are the features, counted from the end, as in the 7B.
FEATURE_LAYER = -2
# More rows than tokens, as in the 7B.
VOCAB_SIZE = 768


def make_vision_config() -> CLIPVisionConfig:
    """One tower of four layers, of which the last is not used, as in the 7B."""
    return CLIPVisionConfig(
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        **_EAGER,
    )


def make_config(ids: dict[str, int]) -> VideoLlavaConfig:
    """The whole model; `ids` are the tokenizer's."""
    text = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=352,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        bos_token_id=ids["<s>"],
        eos_token_id=ids["</s>"],
        pad_token_id=ids["<pad>"],
    )
    return VideoLlavaConfig(
        vision_config=make_vision_config(),
        text_config=text,
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        vision_feature_layer=FEATURE_LAYER,
        image_seq_length=NUM_PATCHES,
        video_seq_length=NUM_FRAMES * (NUM_PATCHES + 1),
        **_EAGER,
    )


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
    side = IMAGE_SIZE // PATCH_SIZE
    rates = math.pi / side * 2.0 ** -torch.arange(-2, 2).repeat_interleave(HIDDEN_SIZE // 16)
    row, column = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    waves = [wave(index.reshape(-1, 1) * rates) for index in (row, column) for wave in (torch.sin, torch.cos)]
    return 0.5 * torch.cat(waves, dim=1)


def normalise(frames: torch.Tensor) -> torch.Tensor:
    """Frames uint8, shape = (..., height, width, 3), as pixel values, shape = (..., 3, height, width)."""
    pixels = (frames.float() / 255 - torch.tensor(OPENAI_CLIP_MEAN)) / torch.tensor(OPENAI_CLIP_STD)
    return pixels.movedim(-1, -3)
