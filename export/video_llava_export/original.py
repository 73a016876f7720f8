"""The layout of the code that trained Video-LLaVA (PKU-YuanGroup/Video-LLaVA), put in transformers' words.

| | transformers | the original |
|---|---|---|
| config.json | `model_type` video_llava, with both sub-configs | a Llama's, `model_type` llava, with `mm_…` |
| towers | two of CLIP's | frames of a video attend to each other too; configs lie in folders of their own |
| tokenizer | `<image>` and `<video>` are tokens | they are no tokens, and the embeddings have no rows for them |
| media | the preprocessor's file | fixed in the code: other frames, resizing without antialiasing, padded images |

That code loads a tower from its folder and not from the checkpoint, so both must hold the same weights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import LlamaConfig

from .errors import CheckpointError

MEDIA = ("video", "image")
IMAGE_SIZE = 224
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
# What both towers must agree on: one set of numbers describes them.
_SHARED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "image_size",
    "patch_size",
    "hidden_act",
    "layer_norm_eps",
)
_STRATEGIES = {"patch": "default", "cls_patch": "full"}
_LLAMA = (LlamaConfig().to_dict().keys() | {"rope_theta", "rope_scaling", "torch_dtype"}) - {"model_type"}


@dataclass(frozen=True)
class Tower:
    """Where a tower's config, and perhaps its weights, lie."""

    folder: Path
    config: dict[str, Any]

    @property
    def has_weights(self) -> bool:
        """Whether the folder holds more than its config."""
        return any(self.folder.glob("*.safetensors")) or any(self.folder.glob("*.bin"))


def is_original(raw: dict[str, Any]) -> bool:
    """Whether this `config.json` is the original's."""
    return raw.get("model_type") == "llava" and "mm_video_tower" in raw


def tower_name(raw: dict[str, Any], medium: str) -> str:
    """Folder or hub repository of the tower, as the checkpoint names it."""
    name = raw.get(f"mm_{medium}_tower")
    if not isinstance(name, str) or not name:
        raise CheckpointError(f"config.json has mm_{medium}_tower {name!r}; the server needs both towers")
    return name


def transformers_config(raw: dict[str, Any], towers: Mapping[str, Tower], *, num_tokens: int) -> dict[str, Any]:
    """The same facts as `config.json` of transformers' `VideoLlava`; raises `CheckpointError`.

    `num_tokens` are those of the tokenizer; `<image>` and `<video>` become the next ones.
    """
    vision = _vision_config(raw, towers)
    _check(raw)
    rows = raw.get("vocab_size", LlamaConfig().vocab_size)
    if num_tokens > rows:
        raise CheckpointError(
            f"the tokenizer has {num_tokens} tokens, the embeddings {rows} rows; take both from one checkpoint"
        )
    num_patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return {
        "model_type": "video_llava",
        "text_config": {name: value for name, value in raw.items() if name in _LLAMA} | {"model_type": "llama"},
        "vision_config": vision | {"model_type": "clip_vision_model"},
        "image_token_index": num_tokens,
        "video_token_index": num_tokens + 1,
        "vision_feature_layer": raw["mm_vision_select_layer"],
        "vision_feature_select_strategy": _STRATEGIES[raw.get("mm_vision_select_feature", "patch")],
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": True,
        "image_seq_length": num_patches,
        "video_seq_length": vision["num_frames"] * (num_patches + 1),
        "tie_word_embeddings": raw.get("tie_word_embeddings", False),
    } | {name: raw[name] for name in ("quantization_config",) if name in raw}


def conventions(raw: dict[str, Any]) -> dict[str, Any]:
    """What a client does otherwise than for transformers' checkpoints, as the server publishes it."""
    found: dict[str, Any] = {
        "sampling": "linspace",
        "video_resize": "bilinear",
        "image_resize": "bicubic",
        "system": SYSTEM,
    }
    if raw.get("image_aspect_ratio") == "pad":
        found["image_padding"] = [int(value * 255) for value in MEAN]
    return found


def _vision_config(raw: dict[str, Any], towers: Mapping[str, Tower]) -> dict[str, Any]:
    """The video tower's; the image tower's must be the same but for time."""
    video, image = (_read_tower(towers[medium], medium) for medium in MEDIA)
    if differing := [name for name in _SHARED if video.get(name) != image.get(name)]:
        name = differing[0]
        raise CheckpointError(
            f"the towers differ: {name} is {video.get(name)!r} in {towers['video'].folder} and {image.get(name)!r} in "
            f"{towers['image'].folder}; the export needs two of one size"
        )
    if image.get("add_time_attn"):
        raise CheckpointError(f"{towers['image'].folder} has add_time_attn; supported is that of the video tower alone")
    if video["image_size"] != IMAGE_SIZE:
        raise CheckpointError(
            f"{towers['video'].folder} has image_size {video['image_size']}; the original code makes frames of 224"
        )
    if (width := raw.get("mm_hidden_size", video["hidden_size"])) != video["hidden_size"]:
        raise CheckpointError(
            f"mm_hidden_size is {width}, the towers' hidden_size {video['hidden_size']}; take both from one checkpoint"
        )
    return video


def _read_tower(tower: Tower, medium: str) -> dict[str, Any]:
    vision = tower.config.get("vision_config_dict") or tower.config.get("vision_config")
    required = ["hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"]
    required += ["num_frames"] if medium == "video" else []
    if not isinstance(vision, dict) or any(not isinstance(vision.get(name), int) for name in required):
        raise CheckpointError(
            f"{tower.folder}/config.json has no vision_config with {', '.join(required)}; download the tower again"
        )
    return vision


def _check(raw: dict[str, Any]) -> None:
    """Refuse what the original code would do and the server does not."""
    for name in ("mm_use_im_start_end", "mm_use_x_start_end"):
        if raw.get(name):
            raise CheckpointError(f"config.json has {name} true, tokens around each medium; supported is false")
    if (kind := raw.get("mm_projector_type", "linear")) != "mlp2x_gelu":
        raise CheckpointError(f"mm_projector_type is {kind!r}; supported is 'mlp2x_gelu'")
    if (feature := raw.get("mm_vision_select_feature", "patch")) not in _STRATEGIES:
        raise CheckpointError(f"mm_vision_select_feature is {feature!r}; supported are 'patch' and 'cls_patch'")
    if not isinstance(layer := raw.get("mm_vision_select_layer"), int):
        raise CheckpointError(f"config.json has mm_vision_select_layer {layer!r}; it must be one layer, such as -2")
