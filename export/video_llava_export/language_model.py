"""The language model becomes a plain Llama checkpoint: the same tensors under the names of `LlamaForCausalLM`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig
from video_llava_server.manifest import FileFacts

from .config import ModelConfig, read_json
from .errors import CheckpointError
from .files import facts_of
from .integers import Scheme, is_projection, quantise
from .names import LANGUAGE_MODEL
from .quantization import find_quantization, for_language_model
from .shards import ELEMENT_BYTES, Source, num_bytes
from .tensors import CheckpointTensor, Tensors

LM_HEAD = "lm_head.weight"
EMBEDDINGS = "model.embed_tokens.weight"

# safetensors' words for the dtypes that a model may compute in, and transformers'.
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# Names of the weight of a quantised layer.
_QUANTISED_WEIGHTS = ("weight", "qweight", "weight_packed")


class Dtype(StrEnum):
    """What the language model's weights are stored in."""

    KEEP = "keep"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    INT8 = "int8"
    """projections; the rest is bfloat16"""
    INT4 = "int4"
    """the same"""


@dataclass(frozen=True)
class ConvertedTensor:
    """A tensor of the checkpoint in another dtype."""

    stored: CheckpointTensor
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""
        return self.stored.shape

    def read(self) -> torch.Tensor:
        """Convert it; `CheckpointError` where a number does not fit."""
        source = self.stored.read()
        converted = source.to(getattr(torch, _DTYPES[self.dtype]))
        # Numbers that were not finite before are the checkpoint's own.
        if num_lost := int(source.isfinite().sum() - converted.isfinite().sum()):
            raise CheckpointError(
                f"{self.stored.name} has {num_lost} numbers too large for {_DTYPES[self.dtype]}; take bfloat16 or keep"
            )
        return converted


@dataclass(frozen=True)
class LanguageModel:
    """The tensors of the language model under the names of `LlamaForCausalLM`, in its order.

    `taken` are the names of the checkpoint's tensors that they are made of. `quantization` is the `quantization_config`
    for vLLM, None for plain weights.
    """

    tensors: Mapping[str, Source]
    taken: Iterable[str]
    tied_embeddings: bool
    quantization: dict[str, Any] | None = None

    @property
    def dtype(self) -> str:
        """The dtype of the embeddings, in transformers' words: `float16`."""
        return _DTYPES[self.tensors[EMBEDDINGS].dtype]

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return sum(map(num_bytes, self.tensors.values()))


def find_language_model(tensors: Tensors, config: ModelConfig, *, dtype: Dtype = Dtype.KEEP) -> LanguageModel:
    """Find and check every tensor that the language model needs; extra ones are left out.

    Raises `CheckpointError` for an absent tensor, and for one of another shape or dtype.
    """
    tied = LANGUAGE_MODEL + LM_HEAD not in tensors and config.tied_embeddings
    expected = expected_shapes(config.text, tied=tied)
    if quantization := find_quantization(config.raw):
        _check_kept(dtype, quantization)
        found = _find_quantised(tensors, expected)
        return LanguageModel(found, found, tied, for_language_model(quantization))
    found = {name: tensors[LANGUAGE_MODEL + name] for name in expected}
    for name, stored in found.items():
        _check_shape(name, stored, expected[name])
        _check_dtype(name, stored)
    if dtype in (Dtype.INT8, Dtype.INT4):
        scheme, sources = Scheme(dtype), {name: _convert(stored, Dtype.BFLOAT16) for name, stored in found.items()}
        quantised = quantise({**sources, **_projections(found)}, scheme)
        return LanguageModel(quantised, found, tied, scheme.quantization)
    return LanguageModel({name: _convert(stored, dtype) for name, stored in found.items()}, found, tied)


def expected_shapes(config: LlamaConfig, *, tied: bool) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a `LlamaForCausalLM` by name; `tied` embeddings stand for the head."""
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    if tied:
        del shapes[LM_HEAD]
    return shapes


def _projections(tensors: Mapping[str, CheckpointTensor]) -> dict[str, CheckpointTensor]:
    """In the dtype they are stored in, so that they are rounded once, not twice."""
    return {name: stored for name, stored in tensors.items() if is_projection(name)}


def _convert(stored: CheckpointTensor, dtype: Dtype) -> Source:
    words = {word: name for name, word in _DTYPES.items()}
    return stored if words.get(dtype, stored.dtype) == stored.dtype else ConvertedTensor(stored, words[dtype])


def _check_kept(dtype: Dtype, quantization: dict[str, Any]) -> None:
    if dtype is not Dtype.KEEP:
        raise CheckpointError(
            f"the language model is quantised ({quantization['quant_method']}), so it cannot be converted to {dtype}; "
            "leave --llm-dtype out"
        )


def _find_quantised(tensors: Tensors, expected: dict[str, tuple[int, ...]]) -> dict[str, CheckpointTensor]:
    """Every tensor of a layer of the Llama, whatever the quantisation method stores there: vLLM reads it."""
    modules = {name[:end] for name in expected for end, letter in enumerate(name) if letter == "."}
    names = [name.removeprefix(LANGUAGE_MODEL) for name in tensors if name.startswith(LANGUAGE_MODEL)]
    found = {name: tensors[LANGUAGE_MODEL + name] for name in names if name.rpartition(".")[0] in modules}
    for name, shape in expected.items():
        module = name.rpartition(".")[0]
        present = [leaf for leaf in _QUANTISED_WEIGHTS if f"{module}.{leaf}" in found]
        if not present:
            raise CheckpointError(f"the checkpoint holds no weight of {LANGUAGE_MODEL}{module}; download it again")
        if present == ["weight"]:
            _check_shape(name, found[name], shape)
    _check_dtype(EMBEDDINGS, found[EMBEDDINGS])
    for name, stored in found.items():
        if stored.dtype not in ELEMENT_BYTES:
            raise CheckpointError(f"{name} is {stored.dtype}; supported are {', '.join(ELEMENT_BYTES)}")
    return found


def _check_shape(name: str, stored: CheckpointTensor, shape: tuple[int, ...]) -> None:
    if stored.shape != shape:
        raise CheckpointError(
            f"{LANGUAGE_MODEL}{name} has shape {stored.shape}, config.json asks for {shape}; "
            "take both from the same checkpoint"
        )


def _check_dtype(name: str, stored: CheckpointTensor) -> None:
    if stored.dtype not in _DTYPES:
        raise CheckpointError(
            f"{LANGUAGE_MODEL}{name} is {stored.dtype}; supported are {', '.join(_DTYPES)}, "
            "and others only where config.json has a quantization_config"
        )


def write_texts(model: LanguageModel, source: Path, folder: Path, config: ModelConfig) -> dict[Path, FileFacts]:
    """Write `config.json` and `generation_config.json`, which `source` may have. Returns the facts of both."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        folder / "config.json": llama_config(model, config),
        folder / "generation_config.json": generation_config(source, config),
    }
    for path, value in texts.items():
        path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return {path: facts_of(path) for path in texts}


def llama_config(model: LanguageModel, config: ModelConfig) -> dict[str, Any]:
    """`config.json` of the plain Llama: the checkpoint's own text_config, with the defaults written out."""
    # Without the defaults that every config of transformers has, such as labels of classifiers.
    common = PreTrainedConfig().to_dict()
    values = {name: value for name, value in config.text.to_dict().items() if value != common.get(name)}
    # Where an older transformers, which vLLM may bring, reads it.
    rope = values.get("rope_parameters") or {}
    if "rope_theta" in rope:
        values["rope_theta"] = rope["rope_theta"]
    values |= {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": model.dtype,
        "tie_word_embeddings": model.tied_embeddings,
    }
    values.pop("quantization_config", None)
    if model.quantization:
        values["quantization_config"] = model.quantization
    return dict(sorted(values.items()))


def generation_config(source: Path, config: ModelConfig) -> dict[str, Any]:
    """The checkpoint's `generation_config.json`; the ids of special tokens that it lacks come from its config."""
    ids = {name: getattr(config.text, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    given = read_json(source / "generation_config.json") if (source / "generation_config.json").is_file() else {}
    return {name: value for name, value in (ids | given).items() if value is not None}
