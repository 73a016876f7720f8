"""A language model in integers, as vLLM reads it (compressed-tensors). No calibration data is needed.

int8 (W8A8): one scale per row; activations are quantised per token while it runs, and integers are multiplied, on a CPU
    through oneDNN. Weights are rounded to nearest.
int4 (W4A16): groups of 32 weights of a row with a scale and a zero point each; activations stay in 16 bits. Of some
    ranges, the one with the least square error is taken. Group and method were chosen by measurement (README.md).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import torch

from .errors import CheckpointError
from .shards import Source

GROUP_SIZE = 32
MAX_INT8, MAX_INT4 = 127, 15
# Of a group's range. Without its outliers, the other weights are rounded finer.
_RANGES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
_NIBBLES = 8  # of one int32
_ROWS = 256  # at a time: what is computed of them fits the processor's cache


class Scheme(StrEnum):
    """What the projections are stored in."""

    INT8 = "int8"
    INT4 = "int4"

    @property
    def quantization(self) -> dict[str, Any]:
        """The `quantization_config` of such a model."""
        group: dict[str, Any] = {"targets": ["Linear"], "weights": _WEIGHTS[self]}
        if self is Scheme.INT8:
            group["input_activations"] = {
                "num_bits": 8,
                "type": "int",
                "strategy": "token",
                "symmetric": True,
                "dynamic": True,
            }
        return {
            "quant_method": "compressed-tensors",
            "format": "int-quantized" if self is Scheme.INT8 else "pack-quantized",
            "quantization_status": "compressed",
            "config_groups": {"group_0": group},
            # Its errors would change the chosen token directly, and it is 2 % of the weights.
            "ignore": ["lm_head"],
        }


_WEIGHTS: dict[Scheme, dict[str, Any]] = {
    Scheme.INT8: {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False},
    Scheme.INT4: {
        "num_bits": 4,
        "type": "int",
        "strategy": "group",
        "group_size": GROUP_SIZE,
        "symmetric": False,
        "dynamic": False,
    },
}


def quantise(tensors: Mapping[str, Source], scheme: Scheme) -> dict[str, Source]:
    """Quantise every projection of every layer; the rest stays as it is. `CheckpointError` for sizes without kernel."""
    quantised: dict[str, Source] = {}
    for name, tensor in tensors.items():
        if is_projection(name):
            _check_shape(name, tensor, scheme)
            stem = name.removesuffix("weight")
            quantised |= {stem + leaf: part for leaf, part in _parts(tensor, scheme)}
        else:
            quantised[name] = tensor
    return quantised


def is_projection(name: str) -> bool:
    """Whether the tensor is the weight of a linear layer below the head."""
    return name.endswith("_proj.weight")


def _check_shape(name: str, tensor: Source, scheme: Scheme) -> None:
    if scheme is Scheme.INT4 and any(size % GROUP_SIZE for size in tensor.shape):
        raise CheckpointError(
            f"{name} has shape {tensor.shape}; int4 needs multiples of {GROUP_SIZE}: take int8 or bfloat16"
        )


@dataclass(frozen=True)
class _Part:
    """One of the tensors that a weight becomes; they are computed together, from one reading."""

    weight: Source
    scheme: Scheme
    leaf: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> torch.Tensor:
        """Compute it, unless the part before it was of the same weight."""
        return _compute(self.weight, self.scheme)[self.leaf]


def _parts(weight: Source, scheme: Scheme) -> Iterator[tuple[str, _Part]]:
    rows, columns = weight.shape
    if scheme is Scheme.INT8:
        parts = {"weight": ((rows, columns), "I8"), "weight_scale": ((rows, 1), "F32")}
    else:
        groups = columns // GROUP_SIZE
        parts = {
            "weight_packed": ((rows, columns // _NIBBLES), "I32"),
            "weight_scale": ((rows, groups), "BF16"),
            "weight_shape": ((2,), "I64"),
            "weight_zero_point": ((rows // _NIBBLES, groups), "I32"),
        }
    for leaf, (shape, dtype) in parts.items():
        yield leaf, _Part(weight, scheme, leaf, shape, dtype)


@lru_cache(maxsize=1)
def _compute(weight: Source, scheme: Scheme) -> dict[str, torch.Tensor]:
    """By the last part of the name."""
    return _COMPUTE[scheme](weight.read())


def _to_int8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """The largest number of each row becomes 127; a row of zeros has the scale 1."""
    weight = weight.float()
    largest = weight.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest / MAX_INT8, 1.0)
    return {"weight": (weight / scale).round().to(torch.int8), "weight_scale": scale}


def _to_int4(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Numbers 0 to 15 that stand for `scale * (number - zero_point)`."""
    parts = [_round_groups(rows.float().unflatten(1, (-1, GROUP_SIZE))) for rows in weight.split(_ROWS)]
    numbers, scales, zeros = (torch.cat(part) for part in zip(*parts, strict=True))
    return {
        "weight_packed": _pack(numbers.flatten(1)),
        "weight_scale": scales,
        "weight_shape": torch.tensor(weight.shape),
        # Packed along the rows.
        "weight_zero_point": _pack(zeros.T).T.contiguous(),
    }


def _round_groups(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of groups, shape = (rows, groups, 32): numbers in that shape; scales and zero points, shape = (rows, groups)."""
    low, high = weight.amin(2, keepdim=True).clamp(max=0), weight.amax(2, keepdim=True).clamp(min=0)
    found = [_round(weight, low * share, high * share) for share in _RANGES]
    errors = torch.stack([((numbers - zero) * scale - weight).square().sum(2, True) for numbers, scale, zero in found])
    best = errors.argmin(0, keepdim=True)
    numbers, scale, zero = (torch.stack(part).take_along_dim(best, 0)[0] for part in zip(*found, strict=True))
    return numbers.to(torch.int32), scale.squeeze(2).bfloat16(), zero.squeeze(2).to(torch.int32)


def _round(weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Numbers, scales and zero points for the range from `low` to `high`; a group of zeros has the scale 1."""
    scale = ((high - low) / MAX_INT4).bfloat16().float()  # as it is stored
    scale = torch.where(scale > 0, scale, 1.0)
    zero = (-low / scale).round().clamp(0, MAX_INT4)
    return ((weight / scale).round() + zero).clamp(0, MAX_INT4), scale, zero


def _pack(numbers: torch.Tensor) -> torch.Tensor:
    """Eight numbers of a row in one int32, the first in its lowest bits; shape = (rows, numbers / 8)."""
    packed = numbers.new_zeros(numbers.shape[0], numbers.shape[1] // _NIBBLES)
    for place in range(_NIBBLES):
        packed |= numbers[:, place::_NIBBLES] << (4 * place)
    return packed


_COMPUTE: dict[Scheme, Callable[[torch.Tensor], dict[str, torch.Tensor]]] = {
    Scheme.INT8: _to_int8,
    Scheme.INT4: _to_int4,
}
