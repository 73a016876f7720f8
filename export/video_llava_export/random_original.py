"""The files of a random checkpoint in the layout of the code that trained Video-LLaVA."""

import json
import mmap
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.serialization import set_default_mmap_options, skip_data
from transformers import PreTrainedTokenizerBase, VideoLlavaConfig

from . import original
from .checkpoint import find_towers
from .config import read_config
from .llama_tokenizer import BEGIN, END
from .names import canonical_name
from .pickled import INDEX_NAME
from .random_weights import RandomTensor
from .sentencepiece_tokenizer import NAME, write_sentencepiece

NUM_FRAMES = 8
TOWERS = {"video": "LanguageBind_Video_merge", "image": "LanguageBind_Image"}
# Frames of 224, whatever the towers' size: the original code makes no others.
_VISION = {"image_size": original.IMAGE_SIZE, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
# CLIP's other half, which Video-LLaVA does not have but the original code loads.
_CAPTIONS = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
_NAMES = (
    (re.compile(r"^(video|image)_tower\."), r"model.\1_tower.\1_tower."),
    (re.compile(r"^multi_modal_projector\.linear_1\."), "model.mm_projector.0."),
    (re.compile(r"^multi_modal_projector\.linear_2\."), "model.mm_projector.2."),
    (re.compile(r"^language_model\."), ""),
)


def write_original_configs(
    folder: Path, tokenizer: PreTrainedTokenizerBase, text: Mapping[str, Any], vision: Mapping[str, Any]
) -> None:
    """Everything but the weights; `text` are values of a `LlamaConfig`, `vision` of the towers' configs."""
    vision = {**_VISION, **vision, "lora_r": 0}
    time = {
        "video": {"add_time_attn": True, "num_frames": NUM_FRAMES},
        "image": {"add_time_attn": False, "num_frames": 1},
    }
    for medium, name in TOWERS.items():
        _write_json(
            folder / name / "config.json",
            {
                "model_type": f"LanguageBind{medium.capitalize()}",
                "projection_dim": 16,
                "text_config": _CAPTIONS,
                "vision_config": {**vision, **time[medium]},
            },
        )
    config = {
        "rms_norm_eps": 1e-5,
        "torch_dtype": "float32",
        **text,
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "mm_image_tower": f"LanguageBind/{TOWERS['image']}",
        "mm_video_tower": f"LanguageBind/{TOWERS['video']}",
        "mm_hidden_size": vision["hidden_size"],
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "image_aspect_ratio": "pad",
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "use_cache": True,
    }
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0})
    special = {"bos_token": BEGIN, "eos_token": END, "unk_token": "<unk>", "pad_token": "<unk>"}
    tokens = {name: {"__type": "AddedToken", "content": token} for name, token in special.items()}
    _write_json(
        folder / "tokenizer_config.json",
        tokens | {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, "legacy": True},
    )
    write_sentencepiece(tokenizer, folder / NAME, num_pieces=text["vocab_size"])


def open_config(folder: Path) -> VideoLlavaConfig:
    """What `write_original_configs` has written, in transformers' words."""
    return VideoLlavaConfig.from_dict(read_config(folder, find_towers(folder)).raw)


def write_original_weights(
    folder: Path,
    parameters: Mapping[str, torch.Tensor | RandomTensor],
    *,
    advance: Callable[[int], object] = lambda _: None,
) -> None:
    """Two pickled shards with the towers inside, and each tower in its own folder too.

    `parameters` have transformers' names. `advance` is called with the number of bytes written.
    """
    tensors = {_original_name(name): tensor for name, tensor in parameters.items()}
    shards = {f"pytorch_model-{index + 1:05}-of-00002.bin": sorted(tensors)[index::2] for index in range(2)}
    for file, names in shards.items():
        _write_pickled({name: tensors[name] for name in names}, folder / file, advance)
    weight_map = {name: file for file, names in shards.items() for name in names}
    _write_json(folder / INDEX_NAME, {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))})
    for medium, tower in TOWERS.items():
        prefix = f"model.{medium}_tower.{medium}_tower."
        own = {
            f"vision_model.{name.removeprefix(prefix)}": tensors[name] for name in tensors if name.startswith(prefix)
        }
        _write_pickled(own, folder / tower / "pytorch_model.bin", advance)


def _write_pickled(
    tensors: Mapping[str, torch.Tensor | RandomTensor], path: Path, advance: Callable[[int], object]
) -> None:
    """One tensor at a time: a file of their shapes first, then the numbers in their places."""
    with FakeTensorMode():
        empty = {name: torch.empty(tensor.shape, dtype=_dtype(tensor)) for name, tensor in tensors.items()}
    with skip_data(materialize_fake_tensors=True):
        torch.save(empty, path)
    with set_default_mmap_options(mmap.MAP_SHARED):
        places = torch.load(path, mmap=True, weights_only=True)
    for name, tensor in tensors.items():
        places.pop(name).copy_(tensor.read() if isinstance(tensor, RandomTensor) else tensor)
        advance(torch.Size(tensor.shape).numel() * _dtype(tensor).itemsize)


def _dtype(tensor: torch.Tensor | RandomTensor) -> torch.dtype:
    return torch.float16 if isinstance(tensor, RandomTensor) else tensor.dtype


def _original_name(name: str) -> str:
    name = canonical_name(name)
    for pattern, replacement in _NAMES:
        name = pattern.sub(replacement, name)
    return name


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
