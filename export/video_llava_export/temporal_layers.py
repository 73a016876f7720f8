"""The original video tower's temporal attention on top of transformers' CLIP, for the reference."""

from typing import Any

import torch
from torch import nn
from transformers import CLIPVisionConfig, VideoLlavaConfig, VideoLlavaModel
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer


class TemporalLayer(CLIPEncoderLayer):
    """CLIP's layer behind attention over the frames of a video, each position by itself."""

    def __init__(self, config: CLIPVisionConfig, num_frames: int) -> None:
        super().__init__(config)
        self.temporal_embedding = nn.Parameter(torch.empty(1, num_frames, config.hidden_size))
        self.temporal_layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.temporal_attn = CLIPAttention(config)

    def forward(self, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        """States, shape = (videos * frames, tokens, width)."""
        num_frames = self.temporal_embedding.shape[1]
        by_position = hidden_states.unflatten(0, (-1, num_frames)).transpose(1, 2)
        states = by_position.flatten(0, 1) + self.temporal_embedding
        states = states + self.temporal_attn(self.temporal_layer_norm1(states), attention_mask=None)[0]
        states = states.view_as(by_position).transpose(1, 2).flatten(0, 1)
        return super().forward(states, *arguments, **options)


def add_temporal_layers(model: VideoLlavaModel, config: VideoLlavaConfig) -> None:
    """Replace the layers of the video tower, where its config says so."""
    vision: Any = config.vision_config
    if getattr(vision, "add_time_attn", False):
        tower: Any = model.video_tower
        encoder = getattr(tower, "vision_model", tower).encoder
        # Not the model's own config, which knows how attention is computed.
        encoder.layers = nn.ModuleList(TemporalLayer(tower.config, vision.num_frames) for _ in encoder.layers)
