"""The tensors of the model `video_llava`, and their values as bytes of Triton's protocol.

The table is the client's own copy of the contract with the server; the server's is `config.pbtxt` of the model.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

# As `struct` and NumPy call them.
_CODES = {"BOOL": "<?", "UINT8": "<B", "UINT32": "<I", "FP32": "<f"}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the model.

    Attributes:
        name: Its name.
        dtype: Its type in Triton's protocol: BYTES (strings), BOOL, UINT8, UINT32 or FP32.
        dims: Its shape; -1 is any size.
        optional: An input that may be left out; an output that is present only if its `return_` input is true.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    optional: bool = False

    def __post_init__(self) -> None:
        if self.dtype != "BYTES" and self.dtype not in _CODES:
            raise ValueError(f"{self.name}: unknown dtype {self.dtype!r}")

    @property
    def config_dtype(self) -> str:
        """The type as `config.pbtxt` spells it, e.g. TYPE_STRING."""
        return "TYPE_STRING" if self.dtype == "BYTES" else f"TYPE_{self.dtype}"

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of `shape` fits `dims`."""
        return len(shape) == len(self.dims) and all(d in (-1, s) for d, s in zip(self.dims, shape, strict=True))


OUTPUTS = (
    TensorSpec("text_output", "BYTES", (-1,)),
    TensorSpec("finish_reason", "BYTES", (-1,), optional=True),
    TensorSpec("cumulative_logprob", "FP32", (-1,), optional=True),
    TensorSpec("logprobs", "BYTES", (-1,), optional=True),
    TensorSpec("num_input_tokens", "UINT32", (1,), optional=True),
    TensorSpec("num_output_tokens", "UINT32", (-1,), optional=True),
    TensorSpec("token_ids", "BYTES", (-1,), optional=True),
    TensorSpec("num_cached_tokens", "UINT32", (1,), optional=True),
    TensorSpec("stage_seconds", "BYTES", (1,), optional=True),
    TensorSpec("server_load", "BYTES", (1,), optional=True),
)

INPUTS = (
    TensorSpec("text_input", "BYTES", (1,)),
    TensorSpec("video_frames", "UINT8", (-1, -1, -1, 3), optional=True),
    TensorSpec("image_frames", "UINT8", (-1, -1, -1, 3), optional=True),
    TensorSpec("sampling_parameters", "BYTES", (1,), optional=True),
    TensorSpec("stream", "BOOL", (1,), optional=True),
    TensorSpec("exclude_input_in_output", "BOOL", (1,), optional=True),
    # One for each output that is optional.
    *(TensorSpec(f"return_{output.name}", "BOOL", (1,), optional=True) for output in OUTPUTS[1:]),
)

INPUTS_BY_NAME = {spec.name: spec for spec in INPUTS}
OUTPUTS_BY_NAME = {spec.name: spec for spec in OUTPUTS}


@dataclass(frozen=True)
class RawTensor:
    """A tensor in Triton's protocol: numbers little-endian, each string after its length."""

    spec: TensorSpec
    shape: tuple[int, ...]
    data: bytes

    def __post_init__(self) -> None:
        if not self.spec.accepts(self.shape):
            raise ValueError(f"{self.spec.name}: expected shape {self.spec.dims}, got {self.shape}")

    def __repr__(self) -> str:
        return f"RawTensor({self.spec.name!r}, {self.spec.dtype}{list(self.shape)}, {len(self.data)} bytes)"


def encode(spec: TensorSpec, value: str | bool | NDArray[Any]) -> RawTensor:
    """Return `value` as the tensor `spec`: a text or a bool [1], or an array of pixels."""
    if isinstance(value, str):
        data = value.encode()
        return RawTensor(spec, (1,), struct.pack("<I", len(data)) + data)
    if isinstance(value, bool):
        return RawTensor(spec, (1,), bytes([value]))
    array = value.astype(_CODES[spec.dtype], casting="no")
    return RawTensor(spec, array.shape, array.tobytes())


def decode(tensor: RawTensor) -> list[Any]:
    """Return the tensor's elements in order: texts or numbers."""
    if tensor.spec.dtype == "BYTES":
        return list(_texts(tensor.data))
    code = _CODES[tensor.spec.dtype]
    if len(tensor.data) % struct.calcsize(code):
        raise ValueError(f"{tensor.spec.name}: {len(tensor.data)} bytes are no whole number of {tensor.spec.dtype}")
    return [value for (value,) in struct.iter_unpack(code, tensor.data)]


def _texts(data: bytes) -> Iterator[str]:
    offset = 0
    while offset < len(data):
        if offset + 4 > len(data):
            raise ValueError(f"the length of a text is cut off at byte {offset} of {len(data)}")
        (length,) = struct.unpack_from("<I", data, offset)
        offset += 4
        if offset + length > len(data):
            raise ValueError(f"a text of {length} bytes is cut off at byte {offset} of {len(data)}")
        yield data[offset : offset + length].decode()
        offset += length
