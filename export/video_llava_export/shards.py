"""Tensors become safetensors files: one is written while the next is read, and no more than two are in memory.

A tensor is read once. Each file is read back from the disk, while the next is written, and must have the SHA-256 of
the bytes that were taken from the tensors.
"""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from pathlib import Path
from typing import Any, Protocol

import torch
from video_llava_server.manifest import FileFacts

from .files import CHUNK_BYTES, HashingFile, facts_of, read_back

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
MAX_SHARD_BYTES = 5_000_000_000

# safetensors' words for dtypes, with the bytes of one element.
ELEMENT_BYTES = {
    **dict.fromkeys(("F64", "I64", "U64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}

Advance = Callable[[int], object]


class Source(Protocol):
    """A tensor that is read on demand; `dtype` is safetensors' word for it (`F16`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102 - the class says it

    @property
    def dtype(self) -> str: ...  # noqa: D102

    def read(self) -> torch.Tensor:
        """The tensor itself, on the CPU, of that shape and dtype."""
        ...


def num_bytes(tensor: Source) -> int:
    """Size of the tensor in a file."""
    return prod(tensor.shape) * ELEMENT_BYTES[tensor.dtype]


def write_shards(
    tensors: Mapping[str, Source],
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    advance: Advance = lambda _: None,
) -> dict[Path, FileFacts]:
    """Write `tensors` into `folder`, as shards with an index if they exceed `max_shard_bytes`.

    `advance` is called with the number of bytes written. Returns the facts of each file; `VerificationError` if one
    reads back otherwise.
    """
    shards = _name(list(_plan(tensors, max_shard_bytes)))
    facts, checks = {}, []
    with ThreadPoolExecutor(1, "reader") as reader:
        for name, shard in shards.items():
            facts[folder / name] = _write_shard(folder / name, shard, advance)
            checks.append(reader.submit(read_back, folder / name, facts[folder / name]))
    for check in checks:
        check.result()
    if len(shards) == 1:
        return facts
    weight_map = {tensor: name for name, shard in shards.items() for tensor in shard}
    index = {"metadata": {"total_size": sum(map(num_bytes, tensors.values()))}, "weight_map": weight_map}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return facts | {folder / INDEX_NAME: facts_of(folder / INDEX_NAME)}


def _name(shards: Sequence[dict[str, Source]]) -> dict[str, dict[str, Source]]:
    """The shards by their files' names."""
    if len(shards) == 1:
        return {SINGLE_NAME: shards[0]}
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": shard for number, shard in enumerate(shards, start=1)}


def _plan(tensors: Mapping[str, Source], max_shard_bytes: int) -> Iterator[dict[str, Source]]:
    """Cut the tensors, in order, into groups; a tensor above the limit gets a shard of its own."""
    shard, size = {}, 0
    for name, tensor in tensors.items():
        if shard and size + num_bytes(tensor) > max_shard_bytes:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += num_bytes(tensor)
    yield shard


def _write_shard(path: Path, shard: dict[str, Source], advance: Advance) -> FileFacts:
    """Header first, then the tensors: `save_file` would need the whole shard in memory."""
    with HashingFile(path) as file:
        file.write(_header(shard))
        for tensor in _read_ahead(shard.values()):
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
            for start in range(0, len(data), CHUNK_BYTES):
                chunk = data[start : start + CHUNK_BYTES]
                file.write(chunk)
                advance(len(chunk))
    return file.facts


def _read_ahead(tensors: Iterable[Source]) -> Iterator[torch.Tensor]:
    with ThreadPoolExecutor(1, "tensor reader") as reader:
        first, *others = tensors
        upcoming = reader.submit(first.read)
        for tensor in others:
            current, upcoming = upcoming, reader.submit(tensor.read)
            yield current.result()
        yield upcoming.result()


def _header(shard: dict[str, Source]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in shard.items():
        end = offset + num_bytes(tensor)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    return struct.pack("<Q", len(text)) + text
