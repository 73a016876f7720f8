"""Prompts' embeddings reach the engine's process in shared memory; vLLM would copy them through a socket.

`SharedTensors` makes tensors in the language model's process, and says where one lies when vLLM encodes it for the
engine. There `open_shared` maps it. New pages would cost more than the copy, so memory is used again: a block is free
when its tensor is gone in both processes. The engine's process says so by a mark in the block, one for each time that
the tensor was sent. Blocks are anonymous files: they end with the processes.
"""

import mmap
import os
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.plugins import load_plugins_by_group
from vllm.v1.serial_utils import MsgpackDecoder, OOBTensorConsumer

_PLUGIN = "video_llava_shared_memory"
_ROUNDING_BYTES = 1 << 20
_MAX_IDLE_BYTES = 256 << 20
_MIN_SHARED_BYTES = 1 << 20
# At a block's end, a mark for each time it was sent: at most `n` of a request.
_MARKS_BYTES = mmap.PAGESIZE


@dataclass(eq=False)
class _Block:
    """Shared memory of `size` bytes, marks included."""

    file: int
    memory: mmap.mmap
    size: int
    address: int
    num_sent: int = 0
    is_alive: bool = True
    """whether its tensor lives in this process"""

    @property
    def is_free(self) -> bool:
        """Whether nobody has its tensor."""
        marks = self.memory[self.size - _MARKS_BYTES : self.size - _MARKS_BYTES + self.num_sent]
        return not self.is_alive and all(marks)


class SharedTensors(OOBTensorConsumer):
    """Makes tensors that need no copy to reach the engine. `empty` is for one thread, the rest for another."""

    def __init__(self) -> None:
        self._blocks: list[_Block] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor of any content; a small one is an ordinary tensor."""
        num_bytes = int(np.prod(shape)) * dtype.itemsize
        if num_bytes < _MIN_SHARED_BYTES:
            return torch.empty(shape, dtype=dtype)
        block = self._take(num_bytes + _MARKS_BYTES)
        array = np.frombuffer(block.memory, np.uint8, num_bytes)
        weakref.finalize(array, _end_tensor, block)
        return torch.from_numpy(array).view(dtype).view(*shape)

    def _take(self, num_bytes: int) -> _Block:
        """Use the smallest idle block that is large enough and not much too large, or make one."""
        size = -(-num_bytes // _ROUNDING_BYTES) * _ROUNDING_BYTES
        idle = sorted((block for block in self._blocks if block.is_free), key=lambda block: block.size)
        block = next((block for block in idle if size <= block.size <= size + size // 4), None)
        while idle and sum(each.size for each in idle) > _MAX_IDLE_BYTES:
            if (oldest := idle.pop()) is not block:
                self._blocks.remove(oldest)
                os.close(oldest.file)
        if block is None:
            block = _make_block(size)
            self._blocks.append(block)
        block.memory[block.size - _MARKS_BYTES :] = bytes(_MARKS_BYTES)
        block.num_sent, block.is_alive = 0, True
        return block

    def __call__(self, tensor: torch.Tensor) -> dict[str, Any] | None:
        """Return where the engine finds the tensor; None for one that was not made here."""
        block = next((b for b in list(self._blocks) if b.is_alive and b.address == tensor.data_ptr()), None)
        if block is None or block.num_sent == _MARKS_BYTES:
            return None
        block.num_sent += 1
        return {_PLUGIN: [os.getpid(), block.file, block.size, block.num_sent - 1]}

    def new_message(self) -> None:
        """Do nothing: a tensor's place does not depend on its message."""


def _make_block(size: int) -> _Block:
    file = os.memfd_create("prompt")
    os.ftruncate(file, size)
    memory = mmap.mmap(file, size)
    return _Block(file, memory, size, np.frombuffer(memory, np.uint8, 1).ctypes.data)


def _end_tensor(block: _Block) -> None:
    block.is_alive = False


def open_shared(dtype: str, shape: Sequence[int], place: Sequence[int]) -> torch.Tensor:
    """Map a tensor of the language model's process; when it is no longer used here, its block is marked."""
    process, file, size, number = place
    own_file = os.open(f"/proc/{process}/fd/{file}", os.O_RDWR)
    torch_dtype: torch.dtype = getattr(torch, dtype)
    memory = mmap.mmap(own_file, size)
    array = np.frombuffer(memory, np.uint8, int(np.prod(shape)) * torch_dtype.itemsize)
    weakref.finalize(array, _mark, own_file, size - _MARKS_BYTES + number)
    return torch.from_numpy(array).view(torch_dtype).view(*shape)


def _mark(file: int, offset: int) -> None:
    os.pwrite(file, b"\1", offset)
    os.close(file)


def is_installed() -> bool:
    """Whether vLLM's processes load `install`: VLLM_PLUGINS may leave it out."""
    return _PLUGIN in load_plugins_by_group("vllm.general_plugins")


def install() -> None:
    """Let vLLM's decoder open such tensors. A plugin of vLLM's (pyproject.toml), run in each of its processes."""
    decode_tensor = MsgpackDecoder._decode_tensor

    def decode(self: MsgpackDecoder, encoded: Any) -> torch.Tensor:
        dtype, shape, data = encoded
        if isinstance(data, dict) and _PLUGIN in data:
            return open_shared(dtype, shape, data[_PLUGIN])
        return decode_tensor(self, encoded)

    vars_of_decoder: Any = MsgpackDecoder
    vars_of_decoder._decode_tensor = decode
