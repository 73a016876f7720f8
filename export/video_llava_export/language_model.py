"""The language model becomes a plain Llama checkpoint: the same tensors under the names of `LlamaForCausalLM`."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedConfig

from .config import ModelConfig, read_json
from .errors import ConfigError
from .names import LANGUAGE_MODEL
from .tensors import INDEX_NAME, SINGLE_NAME, StoredTensor, Tensors

MAX_SHARD_BYTES = 5_000_000_000
LM_HEAD = "lm_head.weight"

# safetensors' words for the dtypes that a checkpoint may have: bytes of one element, transformers' word.
_DTYPES = {"F32": (4, "float32"), "F16": (2, "float16"), "BF16": (2, "bfloat16")}


@dataclass(frozen=True)
class LanguageModel:
    """The tensors of the language model under the names of `LlamaForCausalLM`, in its order."""

    tensors: dict[str, StoredTensor]
    tied_embeddings: bool

    @property
    def dtype(self) -> str:
        """The dtype of the embeddings, in transformers' words: `float16`."""
        return _DTYPES[self.tensors["model.embed_tokens.weight"].dtype][1]


def find_language_model(tensors: Tensors, config: ModelConfig) -> LanguageModel:
    """Find and check every tensor that the language model needs; extra ones are left behind.

    Raises `MissingFilesError` for an absent tensor, `ConfigError` for one of another shape or dtype.
    """
    with torch.device("meta"):
        expected = LlamaForCausalLM(config.text).state_dict()
    tied = LANGUAGE_MODEL + LM_HEAD not in tensors and config.tied_embeddings
    if tied:
        del expected[LM_HEAD]
    found = {name: tensors[LANGUAGE_MODEL + name] for name in expected}
    for name, stored in found.items():
        _check(name, stored, tuple(expected[name].shape))
    return LanguageModel(found, tied)


def _check(name: str, stored: StoredTensor, shape: tuple[int, ...]) -> None:
    if stored.shape != shape:
        raise ConfigError(
            f"{LANGUAGE_MODEL}{name} has shape {stored.shape}, config.json asks for {shape}; "
            "take both from the same checkpoint"
        )
    if stored.dtype not in _DTYPES:
        raise ConfigError(
            f"{LANGUAGE_MODEL}{name} is {stored.dtype}; supported are {', '.join(_DTYPES)}; "
            "quantised checkpoints cannot be exported"
        )


def write_language_model(
    model: LanguageModel, source: Path, folder: Path, config: ModelConfig, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write `config.json`, `generation_config.json` and the safetensors shards of at most `max_shard_bytes`."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", llama_config(model, config))
    _write_json(folder / "generation_config.json", generation_config(source, config))
    _write_shards(model, folder, max_shard_bytes)


def llama_config(model: LanguageModel, config: ModelConfig) -> dict[str, Any]:
    """`config.json` of the plain Llama: the checkpoint's own text_config, with the defaults written out."""
    # Without what every config of transformers carries at its default, labels of classifiers and the like.
    common = PreTrainedConfig().to_dict()
    values = {name: value for name, value in config.text.to_dict().items() if value != common.get(name)}
    # vLLM may come with a transformers that knows only the old place of this one.
    rope = values.get("rope_parameters") or {}
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
    values |= {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": model.dtype,
        "tie_word_embeddings": model.tied_embeddings,
    }
    return dict(sorted(values.items()))


def generation_config(source: Path, config: ModelConfig) -> dict[str, Any]:
    """The checkpoint's `generation_config.json`; the ids of special tokens that it lacks come from its config."""
    ids = {name: getattr(config.text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    given = read_json(source / "generation_config.json") if (source / "generation_config.json").is_file() else {}
    return {name: value for name, value in (ids | given).items() if value is not None}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _num_bytes(stored: StoredTensor) -> int:
    return prod(stored.shape) * _DTYPES[stored.dtype][0]


def _write_shards(model: LanguageModel, folder: Path, max_shard_bytes: int) -> None:
    shards = list(_plan_shards(model.tensors, max_shard_bytes))
    if len(shards) == 1:
        _write_shard(folder / SINGLE_NAME, shards[0])
        return
    weight_map = {}
    for index, shard in enumerate(shards, start=1):
        name = f"model-{index:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shard)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(map(_num_bytes, model.tensors.values()))
    _write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _plan_shards(tensors: dict[str, StoredTensor], max_shard_bytes: int) -> Iterator[dict[str, StoredTensor]]:
    """Cut the tensors, in order, into groups; a tensor above the limit gets a shard of its own."""
    shard, size = {}, 0
    for name, stored in tensors.items():
        if shard and size + _num_bytes(stored) > max_shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = stored
        size += _num_bytes(stored)
    yield shard


def _write_shard(path: Path, shard: dict[str, StoredTensor]) -> None:
    """Header first, then one tensor after the other: `save_file` would want the whole shard in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, stored in shard.items():
        end = offset + _num_bytes(stored)
        header[name] = {"dtype": stored.dtype, "shape": stored.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for stored in shard.values():
            file.write(stored.read().contiguous().view(-1).view(torch.uint8).numpy().data)
