"""An adapter is merged into its base, tensor by tensor, with the arithmetic of PEFT's `merge_and_unload`.

PEFT keeps adapters in float32, whatever their files and the base are in. The product `b @ a` times the scaling is
float32, and so is its sum with the weight (with DoRA also norms and quotients); the result is rounded to the base's
dtype once. Of an embedding without DoRA the product is rounded, too.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from .adapter import Adapter, Lora
from .errors import CheckpointError, name_some
from .shards import Source
from .tensors import CheckpointTensor, Tensors


@dataclass(frozen=True)
class _ChangedTensor:
    """What takes the place of `base`, with its shape and dtype."""

    name: str
    base: CheckpointTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """As in the base."""
        return self.base.shape

    @property
    def dtype(self) -> str:
        """As in the base."""
        return self.base.dtype


@dataclass(frozen=True)
class MergedTensor(_ChangedTensor):
    """A weight with its LoRA in it; `base` is the weight without."""

    lora: Lora

    @property
    def is_changed(self) -> bool:
        """Whether training has left the start, at which `b` is zero."""
        return bool(self.lora.b.read().any())

    def read(self) -> torch.Tensor:
        """Merge it; `CheckpointError` where a number does not fit the base's dtype."""
        weight = self.base.read()
        rounded = self._merge(weight).to(weight.dtype)
        if not all(map(math.isfinite, torch.aminmax(rounded))):  # also of NaN; needs no memory
            raise CheckpointError(
                f"{self.name} with its adapter has numbers that are not finite in {self.dtype}; the adapter is broken, "
                "or the base needs another dtype: save it in bfloat16 or float32"
            )
        return rounded

    def _merge(self, weight: torch.Tensor) -> torch.Tensor:
        """In float32, but for an embedding without DoRA."""
        lora = self.lora
        added = (lora.b.read().float() @ lora.a.read().float()).mul_(lora.scaling)
        if lora.is_embedding:
            # Here PEFT rounds before it adds, but for DoRA; and the order of numbers in memory is that of the weight.
            merged = weight + (added.T if lora.magnitude is not None else added.T.to(weight.dtype))
        else:
            merged = added.add_(weight)
        if lora.magnitude is not None:
            merged.mul_(self._factors(merged, lora.magnitude))
        return merged

    def _factors(self, merged: torch.Tensor, magnitude: Source) -> torch.Tensor:
        """What DoRA multiplies each output's weights by: rows of a linear layer, columns of an embedding."""
        rows = merged.T if self.lora.is_embedding else merged
        factors = (magnitude.read().float() / torch.linalg.norm(rows, dim=1))[:, None]
        return factors.T if self.lora.is_embedding else factors


@dataclass(frozen=True)
class ReplacedTensor(_ChangedTensor):
    """A tensor that the adapter brings whole."""

    brought: Source

    @property
    def is_changed(self) -> bool:
        """Whether it is not the base's own."""
        return not torch.equal(self.read(), self.base.read())

    def read(self) -> torch.Tensor:
        """The brought one, rounded to that dtype."""
        return self.brought.read().to(self.base.read().dtype)


def merge(adapter: Adapter, tensors: Tensors) -> dict[str, CheckpointTensor]:
    """The tensors that the adapter changes, by canonical name; nothing is read yet.

    Raises `CheckpointError` unless everything in the adapter fits its base.
    """
    _check_fit(adapter, tensors)
    merged: dict[str, CheckpointTensor] = {
        name: ReplacedTensor(name, tensors[name], brought) for name, brought in adapter.whole.items()
    }
    for name, lora in adapter.lora.items():
        merged[name] = MergedTensor(name, merged.get(name, tensors[name]), lora)
    return merged


def _check_fit(adapter: Adapter, tensors: Tensors) -> None:
    shapes: Mapping[str, tuple[int, ...]] = {
        **{name: lora.shape for name, lora in adapter.lora.items()},
        **{name: brought.shape for name, brought in adapter.whole.items()},
    }
    if absent := [name for name in shapes if name not in tensors]:
        part = "nothing of" if len(absent) == len(shapes) else f"{len(absent)} of {len(shapes)} tensors do not fit"
        raise CheckpointError(
            f"{adapter.folder}: {part} the base, which has no {name_some(absent)}; name the base that it was trained "
            "on, in full precision"
        )
    wrong = (*_wrong_shapes(shapes, tensors), *_wrong_magnitudes(adapter))
    if wrong:
        raise CheckpointError(
            f"{adapter.folder} does not fit the base's shapes: {name_some(wrong)}; name the base that it was trained "
            "on. If its vocabulary grew (resize_token_embeddings), merge it with PEFT and export the result"
        )


def _wrong_shapes(shapes: Mapping[str, tuple[int, ...]], tensors: Tensors) -> Iterator[str]:
    for name, shape in shapes.items():
        if shape != tensors[name].shape:
            yield f"{name} is {shape} here and {tensors[name].shape} there"


def _wrong_magnitudes(adapter: Adapter) -> Iterator[str]:
    for name, lora in adapter.lora.items():
        if lora.magnitude is not None and lora.magnitude.shape != (lora.b.shape[0],):
            yield f"the magnitudes of {name} are {lora.magnitude.shape}, expected {lora.b.shape[:1]}"
