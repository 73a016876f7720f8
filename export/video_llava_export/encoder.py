"""A vision tower and the projector as one module: uint8 frames in, features of the language model out.

Parameters carry the names of transformers' CLIP, and only the layers up to the last selected one exist. The module
is written out here, not taken from transformers, so that the graph stays the same from version to version.
"""

from typing import Any, TypeVar

import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers.activations import ACT2FN

from .config import ModelConfig
from .errors import CheckpointError
from .names import PROJECTOR
from .preprocessing import Preprocessing
from .tensors import Tensors

_Module = TypeVar("_Module", bound=nn.Module)


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one frame."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States, shape = (frames, tokens, width), attend to those of their own frame."""
        heads = self.num_heads
        query, key, value = self.q_proj(states), self.k_proj(states), self.v_proj(states)
        # Exported as one Attention node; torch's own scaled_dot_product_attention would add four transpositions to it.
        attended, *_ = torch.onnx.ops.attention(query, key, value, q_num_heads=heads, kv_num_heads=heads)
        return self.out_proj(attended)


class Mlp(nn.Module):
    """The feed-forward half of a layer."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States, shape = (frames, tokens, width), token by token."""
        return self.fc2(self.activation(self.fc1(states)))


class TemporalAttention(nn.Module):
    """Before a layer: the frames of a video attend to each other, each position by itself.

    `embedding` is that of the frame's place in the video, shape = (1, frames of a video, width).
    """

    def __init__(self, config: CLIPVisionConfig, num_frames: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.empty(1, num_frames, config.hidden_size))
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attn = Attention(config)

    def forward(self, states: torch.Tensor, num_videos: torch.SymInt | int) -> torch.Tensor:
        """States, shape = (num_videos * frames, tokens, width)."""
        num_frames, width = self.embedding.shape[1:]
        tokens = states.shape[1]
        states = states.reshape(num_videos, num_frames, tokens, width).transpose(1, 2)
        states = states.reshape(num_videos * tokens, num_frames, width) + self.embedding
        states = states + self.attn(self.layer_norm1(states))
        states = states.reshape(num_videos, tokens, num_frames, width).transpose(1, 2)
        return states.reshape(num_videos * num_frames, tokens, width)


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: CLIPVisionConfig, num_frames: int | None) -> None:
        super().__init__()
        self.temporal = None if num_frames is None else TemporalAttention(config, num_frames)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, states: torch.Tensor, num_videos: torch.SymInt | int) -> torch.Tensor:
        """States, shape = (frames, tokens, width)."""
        if self.temporal is not None:
            states = self.temporal(states, num_videos)
        states = states + self.self_attn(self.layer_norm1(states))
        return states + self.mlp(self.layer_norm2(states))


class Embeddings(nn.Module):
    """Pixels become patch tokens behind one class token, with their positions added."""

    def __init__(self, config: CLIPVisionConfig, *, num_patches: int, patch_size: int) -> None:
        super().__init__()
        width = config.hidden_size
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.patch_embedding = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=False)
        self.position_embedding = nn.Embedding(num_patches + 1, width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels, shape = (frames, 3, H, W), as tokens, shape = (frames, 1 + patches, width)."""
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([class_token, patches], dim=1) + self.position_embedding.weight


class Tower(nn.Module):
    """The vision tower as far as its features are used: the concatenated hidden states of `feature_layers`.

    With `temporal_frames`, so many frames of a video attend to each other; None: each frame is by itself.
    """

    def __init__(self, config: ModelConfig, temporal_frames: int | None = None) -> None:
        super().__init__()
        vision = config.vision
        self.feature_layers = config.feature_layers
        self.num_tokens = 1 + config.num_patches
        self.embeddings = Embeddings(vision, num_patches=config.num_patches, patch_size=config.patch_size)
        # The misspelling is the parameter's name in every CLIP checkpoint.
        self.pre_layrnorm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Layer(vision, temporal_frames) for _ in range(max(self.feature_layers)))
        self.temporal_frames = temporal_frames

    def forward(self, pixels: torch.Tensor, num_tokens: int, num_videos: torch.SymInt | int = 0) -> torch.Tensor:
        """Pixels, shape = (frames, 3, H, W), as states of the first tokens, (frames, tokens, width * layers used).

        `num_videos` matters only where frames attend to each other.
        """
        states = [self.pre_layrnorm(self.embeddings(pixels)[:, :num_tokens])]
        for layer in self.encoder.get_submodule("layers").children():
            states.append(layer(states[-1], num_videos))
        return torch.cat([states[index] for index in self.feature_layers], dim=-1)


class Projector(nn.Module):
    """Features of the vision tower become embeddings of the language model."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        features = config.vision.hidden_size * len(config.feature_layers)
        hidden = config.text.hidden_size
        self.linear_1 = nn.Linear(features, hidden, bias=config.projector_bias)
        self.activation = ACT2FN[config.projector_activation]
        self.linear_2 = nn.Linear(hidden, hidden, bias=config.projector_bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features, shape = (frames, tokens, width), as embeddings, shape = (frames, tokens, hidden)."""
        return self.linear_2(self.activation(self.linear_1(features)))


class FrameEncoder(nn.Module):
    """One encoder: frames of a medium become its positions in the prompt."""

    pixel_scale: torch.Tensor
    pixel_offset: torch.Tensor

    def __init__(
        self,
        tower: Tower,
        projector: Projector,
        preprocessing: Preprocessing,
        *,
        keeps_class_token: bool,
        max_frames: int,
        features_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.max_frames = max_frames
        self.features_dtype = features_dtype
        self.first_token = 0 if keeps_class_token else 1
        self.tower = tower
        self.projector = projector
        mean, std = torch.tensor(preprocessing.mean), torch.tensor(preprocessing.std)
        # (x * factor - mean) / std as one product and one sum.
        self.register_buffer("pixel_scale", preprocessing.rescale_factor / std, persistent=False)
        self.register_buffer("pixel_offset", -mean / std, persistent=False)

    @property
    def dtype(self) -> torch.dtype:
        """What tower and projector compute in."""
        return self.tower.embeddings.class_embedding.dtype

    def release(self) -> None:
        """Free the weights: torch keeps an exported module in its caches."""
        for parameter in self.parameters():
            parameter.data = parameter.new_empty(0)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames uint8, shape = (batch, frames, H, W, 3), as features, shape = (batch, frames * tokens, hidden).

        Features are of `features_dtype`. Past `max_frames` frames are not read: the ensemble never sends so many, and a
        client that calls the encoder itself must not take all memory.
        Without frames it is one row of zeros, since an empty tensor makes Triton's response cache log an error.
        Where frames attend to each other, those that make no whole video are not read either.
        """
        batch, group = frames.shape[0], self.tower.temporal_frames or 1
        num_groups: Any = torch.sym_min(frames.shape[1], self.max_frames) // group
        num_blank: Any = torch.sym_max(1 - num_groups, 0)
        num_frames = group * num_groups
        # The cast comes first: TensorRT supports nothing else for uint8.
        pixels = frames.to(torch.float32).narrow(1, 0, num_frames).flatten(0, 1)
        # Attention refuses a batch of 0: without frames the tower reads two tokens of a black frame, whose features are
        # dropped. An `If` would read none, but TensorRT 10.16 fails on Attention inside one.
        pixels = torch.cat([pixels, pixels.new_zeros(group * num_blank, *pixels.shape[1:])]) * self.pixel_scale
        num_tokens: Any = torch.sym_min(self.tower.num_tokens, 2 + self.tower.num_tokens * num_frames)
        pixels = (pixels + self.pixel_offset).to(self.dtype).permute(0, 3, 1, 2)
        states = self.tower(pixels, num_tokens, batch * num_groups + num_blank)
        features = self.projector(states[:, self.first_token :]).to(self.features_dtype)
        tokens, hidden = features.shape[1:]
        features = features.narrow(0, 0, batch * num_frames).reshape(batch, num_frames * tokens, hidden)
        return torch.cat([features, features.new_zeros(batch, num_blank, hidden)], dim=1)


def load_encoder(
    medium: str,
    tensors: Tensors,
    config: ModelConfig,
    preprocessing: Preprocessing,
    *,
    dtype: torch.dtype = torch.float32,
    features_dtype: torch.dtype = torch.float32,
) -> FrameEncoder:
    """The encoder of `medium` ("video" or "image") in `dtype`, filled from the checkpoint tensor by tensor."""
    # As many as the context holds.
    max_frames = -(-config.text.max_position_embeddings // config.num_patches)
    with torch.device("meta"):
        tower, projector = Tower(config, _temporal_frames(config, medium)).to(dtype), Projector(config).to(dtype)
    encoder = FrameEncoder(
        _fill(tower, f"{medium}_tower.", tensors),
        _fill(projector, PROJECTOR, tensors),
        preprocessing,
        keeps_class_token=medium == "video" or config.keeps_image_class_token,
        max_frames=max_frames,
        features_dtype=features_dtype,
    )
    return encoder.eval().requires_grad_(False)


def encoder_names(config: ModelConfig) -> set[str]:
    """Canonical names of all tensors that both encoders are filled from."""
    with torch.device("meta"):
        modules = {f"{medium}_tower.": Tower(config, _temporal_frames(config, medium)) for medium in ("video", "image")}
        modules |= {PROJECTOR: Projector(config)}
    return {prefix + _stored_name(name) for prefix, module in modules.items() for name, _ in module.named_parameters()}


def _temporal_frames(config: ModelConfig, medium: str) -> int | None:
    return config.num_frames if medium == "video" and config.has_temporal_attention else None


def _stored_name(name: str) -> str:
    """The original's names have no module for the temporal attention."""
    return name.replace(".temporal.", ".temporal_")


def _fill(module: _Module, prefix: str, tensors: Tensors) -> _Module:
    module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        stored = tensors[prefix + _stored_name(name)]
        if stored.shape != tuple(parameter.shape):
            raise CheckpointError(
                f"{prefix + name} has shape {stored.shape}, config.json asks for {tuple(parameter.shape)}; "
                "take both from the same checkpoint"
            )
        with torch.no_grad():
            parameter.copy_(stored.read())
    return module
