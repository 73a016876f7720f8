"""Weights in torch's own files (`pytorch_model-*.bin`), read by its restricted reader, one tensor at a time.

The restricted reader (`weights_only=True`) makes tensors and containers and runs nothing else. Files are mapped into
memory, so a tensor's bytes are read when it is copied.
"""

import pickle
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError

INDEX_NAME = "pytorch_model.bin.index.json"
SINGLE_NAME = "pytorch_model.bin"
SUFFIX = ".bin"
# safetensors' words.
_WORDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_load = partial(torch.load, map_location="cpu", mmap=True, weights_only=True)


def read_pickled(path: Path, name: str) -> torch.Tensor:
    """One tensor of a file, copied out of it."""
    return _load(path)[name].detach().clone(memory_format=torch.contiguous_format)


def pickled_shapes(path: Path) -> Iterator[tuple[str, tuple[int, ...], str]]:
    """Name, shape and dtype, in safetensors' word, of each tensor; raises `CheckpointError`."""
    try:
        state: Any = _load(path)
    except pickle.UnpicklingError as exc:
        raise CheckpointError(
            f"{path} holds more than tensors ({_first_line(exc)}), and reading it could run code; "
            "save the weights as safetensors"
        ) from exc
    except (RuntimeError, ValueError, EOFError, OSError) as exc:
        raise CheckpointError(
            f"{path} is damaged, or in torch's format from before 1.6 ({_first_line(exc)}); download it again, "
            "or save the weights as safetensors"
        ) from exc
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds a {type(state).__name__}, not tensors by name; save the weights anew")
    for name, tensor in state.items():
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in _WORDS:
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise CheckpointError(
                f"{path} has {name!r} of {kind}; supported are tensors of {', '.join(_WORDS.values())}"
            )
        yield name, tuple(tensor.shape), _WORDS[tensor.dtype]


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
