"""The file of weights beside an ONNX graph: where each tensor lies in it, and what two graphs have in common.

Graphs keep their weights apart because a graph that holds them is parsed, hence copied, as a whole; a file of weights
is mapped. It must lie in the graph's own folder, or ONNX Runtime refuses it.
"""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

# Of large tensors, so that they can be mapped.
ALIGNMENT, MIN_ALIGNED_BYTES = 1 << 16, 1 << 20


def weights_path(graph: Path) -> Path:
    """The file of weights of the graph at `graph`."""
    return graph.with_name(graph.name + ".data")


def share_weights(first: Path, second: Path) -> None:
    """Store weights that are byte for byte the same once: `second` then points into the file of `first`.

    The file of `second` is replaced by one of its remaining weights, or removed if none are left.
    """
    with weights_path(first).open("rb") as file:
        offsets = {_digest(_read(file, tensor)): _place(tensor).offset for tensor in _external(_load(first))}
    model, own, rest = _load(second), weights_path(second), second.with_suffix(".rest")
    with own.open("rb") as source, rest.open("wb") as target:
        for tensor in _external(model):
            data = _read(source, tensor)
            if (offset := offsets.get(_digest(data))) is not None:
                _point(tensor, weights_path(first).name, offset, len(data))
            else:
                _point(tensor, own.name, _append(target, data), len(data))
    own.unlink()
    if rest.stat().st_size:
        rest.rename(own)
    else:
        rest.unlink()
    _save(model, second)


def rename_weights(graph: Path, target: Path) -> None:
    """Write the graph at `graph` to `target`, with the file of weights expected at `weights_path(target)`."""
    model = _load(graph)
    for tensor in _external(model):
        place = _place(tensor)
        _point(tensor, weights_path(target).name, place.offset, place.length)
    _save(model, target)


def _load(graph: Path) -> onnx.ModelProto:
    return onnx.load(graph, load_external_data=False)


def _save(model: onnx.ModelProto, path: Path) -> None:
    onnx.save_model(model, path)
    onnx.checker.check_model(path)


def _external(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in model.graph.initializer if uses_external_data(tensor)]


def _place(tensor: onnx.TensorProto) -> Any:
    """`offset` and `length` in bytes; the file may leave out an offset of 0."""
    info = ExternalDataInfo(tensor)
    info.offset = info.offset or 0
    return info


def _read(file: BinaryIO, tensor: onnx.TensorProto) -> bytes:
    place = _place(tensor)
    file.seek(place.offset)
    return file.read(place.length)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _append(file: BinaryIO, data: bytes) -> int:
    """Returns the offset."""
    if len(data) >= MIN_ALIGNED_BYTES:
        file.seek(-file.tell() % ALIGNMENT, os.SEEK_CUR)
    offset = file.tell()
    file.write(data)
    return offset


def _point(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
