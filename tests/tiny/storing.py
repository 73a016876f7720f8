"""The ways to store a language model: those of the export, and checkpoints that came quantised and are passed through.

AWQ's and GPTQ's rows have these tools' layouts; their numbers are only rounded to nearest, without calibration.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from video_llava_export.checkpoint import Checkpoint
from video_llava_export.integers import is_projection
from video_llava_export.language_model import Dtype, LanguageModel, find_language_model
from video_llava_export.names import LANGUAGE_MODEL

GROUP_SIZE = 32
CONVERTED = (Dtype.BFLOAT16, Dtype.INT8, Dtype.INT4)
PASSED_THROUGH = ("compressed-tensors", "gptq", "awq")
# Of AWQ's eight numbers in an int32, from its lowest bits.
_AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
_WORDS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.int32: "I32", torch.int64: "I64"}


@dataclass(frozen=True)
class Held:
    """A tensor of a checkpoint that exists in memory only."""

    name: str
    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> str:
        """In safetensors' word."""
        return _WORDS[self.tensor.dtype]

    def read(self) -> torch.Tensor:
        """The tensor itself."""
        return self.tensor


def store(checkpoint: Checkpoint, way: str, *, num_layers: int | None = None) -> LanguageModel:
    """The language model of `checkpoint`, or its first layers, stored in a `way` of the two lists above."""
    config = first_layers(checkpoint, num_layers).config
    if way in CONVERTED:
        return find_language_model(checkpoint.tensors, config, dtype=Dtype(way))
    plain = find_language_model(checkpoint.tensors, config, dtype=Dtype.BFLOAT16)
    if way == "compressed-tensors":
        stored = find_language_model(checkpoint.tensors, config, dtype=Dtype.INT4)
        parts, quantization = {name: part.read() for name, part in stored.tensors.items()}, stored.quantization
    else:
        parts, quantization = _pack(plain, way)
    held: Any = {LANGUAGE_MODEL + name: Held(LANGUAGE_MODEL + name, part) for name, part in parts.items()}
    return find_language_model(held, replace(config, raw={**config.raw, "quantization_config": quantization}))


def first_layers(checkpoint: Checkpoint, num_layers: int | None) -> Checkpoint:
    """The same checkpoint, whose config has so many layers (None: all of them)."""
    if num_layers is None:
        return checkpoint
    text = type(checkpoint.config.text)(**{**checkpoint.config.text.to_dict(), "num_hidden_layers": num_layers})
    return replace(checkpoint, config=replace(checkpoint.config, text=text))


def _pack(plain: LanguageModel, way: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Its tensors as `way` stores them, and its `quantization_config`."""
    parts: dict[str, torch.Tensor] = {}
    for name, source in plain.tensors.items():
        if is_projection(name):
            packed = (_to_gptq if way == "gptq" else _to_awq)(source.read().float())
            parts |= {name.removesuffix("weight") + leaf: part for leaf, part in packed.items()}
        else:
            parts[name] = source.read()
    common = {"quant_method": way, "bits": 4, "group_size": GROUP_SIZE, "lm_head": False}
    if way == "gptq":
        return parts, common | {"desc_act": False, "sym": True, "checkpoint_format": "gptq"}
    return parts, common | {"zero_point": True, "version": "gemm"}


def _to_gptq(weight: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Symmetric: 8 stands for zero. Everything is transposed to (inputs, outputs)."""
    groups = weight.unflatten(1, (-1, GROUP_SIZE))
    scales = (groups.abs().amax(2) / 7).clamp(min=1e-8).half()
    numbers = ((groups / scales.float()[..., None]).round() + 8).clamp(0, 15).to(torch.int32).flatten(1)
    return {
        "qweight": _eight_in_one(numbers).T.contiguous(),
        # One less than the zero point: the format has it so.
        "qzeros": _eight_in_one(torch.full_like(scales.T, 7, dtype=torch.int32)),
        "scales": scales.T.contiguous(),
        "g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP_SIZE,
    }


def _to_awq(weight: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """With zero points. Everything is transposed to (inputs, outputs), and packed along the outputs."""
    groups = weight.unflatten(1, (-1, GROUP_SIZE))
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    scales = ((high - low) / 15).clamp(min=1e-8).half()
    zeros = (-low / scales.float()).round().clamp(0, 15)
    numbers = ((groups / scales.float()[..., None]).round() + zeros[..., None]).clamp(0, 15).to(torch.int32)
    return {
        "qweight": _eight_in_one(_reorder(numbers.flatten(1).T)),
        "qzeros": _eight_in_one(_reorder(zeros.to(torch.int32).T)),
        "scales": scales.T.contiguous(),
    }


def _reorder(numbers: torch.Tensor) -> torch.Tensor:
    return numbers.unflatten(1, (-1, 8))[:, :, _AWQ_ORDER].flatten(1)


def _eight_in_one(numbers: torch.Tensor) -> torch.Tensor:
    """Eight numbers of a row in one int32, the first in its lowest bits."""
    packed = numbers.new_zeros(numbers.shape[0], numbers.shape[1] // 8)
    for place in range(8):
        packed |= numbers[:, place::8] << (4 * place)
    return packed
