"""`config.json` of a checkpoint, checked: every number of the export is derived from it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, LlamaConfig, VideoLlavaConfig

from . import original
from .errors import CheckpointError
from .original import Tower
from .sentencepiece_tokenizer import NAME, count_pieces

STRATEGIES = ("default", "full")


@dataclass(frozen=True)
class ModelConfig:
    """The facts of a Video-LLaVA checkpoint.

    `feature_layers` index the vision tower's hidden states, counted from 0 = the input of the first layer.
    `raw` is the file as it was read, or in transformers' words.
    """

    vision: CLIPVisionConfig
    text: LlamaConfig
    raw: dict[str, Any]
    image_size: int
    patch_size: int
    feature_layers: tuple[int, ...]
    keeps_image_class_token: bool
    projector_activation: str
    projector_bias: bool
    image_token_id: int
    video_token_id: int
    num_frames: int
    tied_embeddings: bool
    conventions: dict[str, Any] = field(default_factory=dict)
    """of the original layout: what a client does otherwise (`original.conventions`)"""

    @property
    def is_original(self) -> bool:
        """Whether the checkpoint has the layout of the code that trained it."""
        return bool(self.conventions)

    @property
    def has_temporal_attention(self) -> bool:
        """Whether frames of a video attend to each other in the video tower."""
        return bool(getattr(self.vision, "add_time_attn", False))

    @property
    def num_patches(self) -> int:
        """Patches of one frame, without the class token."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def tokens_per_frame(self) -> int:
        """Positions of one video frame in the prompt; the class token always stays."""
        return self.num_patches + 1

    @property
    def tokens_per_image(self) -> int:
        """Positions of one image in the prompt."""
        return self.num_patches + (1 if self.keeps_image_class_token else 0)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the checkpoint; `CheckpointError` if there is none."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}; download the whole checkpoint")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise CheckpointError(f"{path} is not JSON ({exc}); download it again") from exc
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__} where an object was expected; download it again")
    return value


def read_config(
    folder: Path, towers: Mapping[str, Tower] | None = None, *, tokenizer: Path | None = None
) -> ModelConfig:
    """Read and check `config.json`; raises `CheckpointError` with the value that is wrong.

    `towers` are those of the original layout, whose `tokenizer` (None: in `folder`) gives the ids of placeholders.
    """
    raw = read_json(folder / "config.json")
    conventions = original.conventions(raw) if towers else {}
    if towers:
        raw = original.transformers_config(raw, towers, num_tokens=count_pieces((tokenizer or folder) / NAME))
    if (model_type := raw.get("model_type")) != "video_llava":
        raise CheckpointError(
            f"{folder} is a checkpoint of model_type {model_type!r}, not 'video_llava'; "
            "give one like LanguageBind/Video-LLaVA-7B-hf"
        )
    keeps_class_token = _read_strategy(raw) == "full"
    image_token_id, video_token_id = (_placeholder_id(raw, medium) for medium in ("image", "video"))
    config = VideoLlavaConfig.from_dict(raw)
    vision, text = _sub_configs(config)
    image_size, patch_size = _square_sizes(vision)
    return ModelConfig(
        vision=vision,
        text=text,
        raw=raw,
        image_size=image_size,
        patch_size=patch_size,
        feature_layers=_feature_layers(config, vision.num_hidden_layers),
        keeps_image_class_token=keeps_class_token,
        projector_activation=config.projector_hidden_act,
        projector_bias=config.multimodal_projector_bias,
        image_token_id=image_token_id,
        video_token_id=video_token_id,
        num_frames=_num_frames(config.video_seq_length, (image_size // patch_size) ** 2 + 1),
        tied_embeddings=config.tie_word_embeddings or text.tie_word_embeddings,
        conventions=conventions,
    )


def _read_strategy(raw: dict[str, Any]) -> str:
    strategy = raw.get("vision_feature_select_strategy", "default")
    if strategy not in STRATEGIES:
        raise CheckpointError(
            f"vision_feature_select_strategy is {strategy!r}; supported are {' and '.join(map(repr, STRATEGIES))}"
        )
    return strategy


def _placeholder_id(raw: dict[str, Any], medium: str) -> int:
    """Not from `VideoLlavaConfig`, which silently fills in the ids of the 7B."""
    value = raw.get(f"{medium}_token_index", raw.get(f"{medium}_token_id"))
    if not isinstance(value, int):
        raise CheckpointError(
            f"config.json has {medium}_token_index {value!r}; it must be the id of <{medium}> in the tokenizer"
        )
    return value


def _sub_configs(config: VideoLlavaConfig) -> tuple[CLIPVisionConfig, LlamaConfig]:
    vision, text = config.vision_config, config.text_config
    if not isinstance(vision, CLIPVisionConfig):
        raise CheckpointError(f"vision_config is a {type(vision).__name__}; supported is clip_vision_model")
    if not isinstance(text, LlamaConfig):
        raise CheckpointError(f"text_config is a {type(text).__name__}; supported is llama")
    return vision, text


def _square_sizes(vision: CLIPVisionConfig) -> tuple[int, int]:
    image_size, patch_size = vision.image_size, vision.patch_size
    if not isinstance(image_size, int) or not isinstance(patch_size, int):
        raise CheckpointError(
            f"vision_config has image_size {image_size!r} and patch_size {patch_size!r}; both must be one integer"
        )
    return image_size, patch_size


def _feature_layers(config: VideoLlavaConfig, num_layers: int) -> tuple[int, ...]:
    chosen = config.vision_feature_layer
    layers = [chosen] if isinstance(chosen, int) else list(chosen)
    num_states = num_layers + 1
    if not layers or any(not -num_states <= layer < num_states for layer in layers):
        raise CheckpointError(
            f"vision_feature_layer is {chosen!r}; a tower of {num_layers} layers has {-num_states} to {num_layers}"
        )
    return tuple(layer % num_states for layer in layers)


def _num_frames(video_seq_length: int, tokens_per_frame: int) -> int:
    num_frames, rest = divmod(video_seq_length, tokens_per_frame)
    if rest or not num_frames:
        raise CheckpointError(
            f"video_seq_length is {video_seq_length}, no multiple of the {tokens_per_frame} tokens of a frame; "
            "set it in config.json to the frames of a video times that"
        )
    return num_frames
