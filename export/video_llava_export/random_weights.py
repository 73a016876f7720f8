"""Random numbers that make a model worth testing with: activations stay finite, answers depend on what is seen.

As transformers initialises it, a model repeats one token for ever, and its best two logits hardly differ.
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import VideoLlavaForConditionalGeneration, VideoLlavaModel


@dataclass(frozen=True)
class RandomTensor:
    """A float16 tensor that is drawn when it is read, the same each time: normal, around `mean`, with `scale`."""

    shape: tuple[int, ...]
    mean: float
    scale: float
    seed: int
    dtype: str = "F16"

    @classmethod
    def of(cls, name: str, shape: tuple[int, ...], *, seed: int) -> "RandomTensor":
        """For the 7B's parameter `name`: no activation leaves float16, neither text nor picture drowns the other."""
        return cls(shape, *_mean_and_scale(name, shape), seed)

    def read(self) -> torch.Tensor:
        """Draw it."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.empty(self.shape, dtype=torch.float16).normal_(self.mean, self.scale, generator=generator)


def _mean_and_scale(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    if re.search(r"(layrnorm|norm|layer_?norm\d?)\.weight$", name):
        return 1.0, 0.0
    if len(shape) == 1 and "class_embedding" not in name:
        return 0.0, 0.02
    if "embed_tokens" in name:
        return 0.0, 1.0
    if "position_embedding" in name or "class_embedding" in name:
        return 0.0, 0.1
    factor = 4.0 if "lm_head" in name else 0.3 if re.search(r"patch_embedding|linear_2", name) else 1.0
    return 0.0, factor * torch.Size(shape[1:]).numel() ** -0.5


@torch.no_grad()
def draw_small_model(model: VideoLlavaForConditionalGeneration) -> None:
    """Redraw all weights of a small model, from torch's global generator."""
    for tower in (model.model.video_tower, model.model.image_tower):
        _draw_tower(tower)
    _draw_projector(model.model)
    _draw_language_model(model.model.language_model)
    _draw_head(model.lm_head.weight, model.config)


def _draw(weight: torch.Tensor, scale: float = 1.0) -> None:
    """Random numbers that keep the size of what they are multiplied with, times `scale`."""
    weight.normal_(0, scale * weight[0].numel() ** -0.5)


def _draw_tower(tower: nn.Module) -> None:
    """Patches outweigh positions, so that the features are of the picture and not of the grid."""
    for name, weight in tower.named_parameters():
        if "patch_embedding" in name:
            _draw(weight, 0.3)
        elif "position_embedding" in name:
            weight.normal_(0, 0.1)
        elif "class_embedding" in name or "temporal_embedding" in name:
            weight.normal_(0, 0.3)
        elif weight.ndim == 2:
            _draw(weight)


def _draw_projector(model: VideoLlavaModel) -> None:
    """Features of the size of token embeddings, so that neither drowns the other."""
    projector = model.multi_modal_projector
    _draw(projector.linear_1.weight)
    _draw(projector.linear_2.weight)
    config: Any = model.config
    size = config.vision_config.image_size
    states = model.video_tower(torch.randn(8, 3, size, size), output_hidden_states=True).hidden_states[-2]
    projector.linear_2.weight /= projector(states).std()


def _draw_language_model(language_model: nn.Module) -> None:
    """Sharp attention keeps answers from looping; sharper still, it magnifies the noise of float32."""
    for name, weight in language_model.named_parameters():
        if "embed_tokens" in name:
            weight.normal_(0, 1)
        elif "q_proj" in name or "k_proj" in name:
            _draw(weight, 2.0)
        elif weight.ndim == 2:
            _draw(weight)


def _draw_head(weight: torch.Tensor, config: Any) -> None:
    """Some answers end, few hold a raw byte, none an unknown token or what only prompts may hold."""
    _draw(weight, 4.0)
    unknown, begin, end, first_byte, first_piece = 0, 1, 2, 3, 259
    weight[end] *= 1.5
    weight[first_byte:first_piece] *= 0.75
    weight[[unknown, begin]] = 0
    weight[config.image_token_index :] = 0
