"""A language model in int8: weights with one scale per row, activations quantised per token while it runs (W8A8).

vLLM reads it as compressed-tensors and multiplies integers, on a CPU through oneDNN. Weights are rounded to nearest; no
calibration data is needed, since scales of activations are computed while it runs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .shards import Source

MAX_INT8 = 127
QUANTIZATION: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "strategy": "token",
                "symmetric": True,
                "dynamic": True,
            },
        }
    },
    # Its errors would change the chosen token directly, and it is 2 % of the weights.
    "ignore": ["lm_head"],
}
"""The `quantization_config` of such a model."""


def quantise(tensors: Mapping[str, Source]) -> dict[str, Source]:
    """Quantise every projection of every layer; the rest stays as it is."""
    quantised: dict[str, Source] = {}
    for name, tensor in tensors.items():
        if is_projection(name):
            quantised[name] = _Int8Weight(tensor)
            quantised[f"{name}_scale"] = _Scale(tensor)
        else:
            quantised[name] = tensor
    return quantised


def is_projection(name: str) -> bool:
    """Whether the tensor is the weight of a linear layer below the head."""
    return name.endswith("_proj.weight")


@dataclass(frozen=True)
class _Scale:
    """float32, shape = (rows, 1): the largest number of each row becomes 127."""

    weight: Source
    dtype: str = "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """One scale per row."""
        return (self.weight.shape[0], 1)

    def read(self) -> torch.Tensor:
        """Compute it; a row of zeros has the scale 1."""
        largest = self.weight.read().float().abs().amax(1, keepdim=True)
        return torch.where(largest > 0, largest / MAX_INT8, 1.0)


@dataclass(frozen=True)
class _Int8Weight:
    """int8, in the shape of the weight."""

    weight: Source
    dtype: str = "I8"

    @property
    def shape(self) -> tuple[int, ...]:
        """As the weight."""
        return self.weight.shape

    def read(self) -> torch.Tensor:
        """Round to the nearest."""
        return (self.weight.read().float() / _Scale(self.weight).read()).round().to(torch.int8)
