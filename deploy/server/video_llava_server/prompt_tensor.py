"""A prompt's embeddings, put together where and when they are read: in the engine, for positions that it computes.

vLLM takes a prompt's embeddings as one tensor [positions, hidden]. For a video of the 7B it has 17 MB, which vLLM would
send to the engine's process, hash for its prefix cache and copy to the device, even if that cache has the whole video.
A `PromptTensor` has the tensor's shape and no memory. What is sent says which tokens and which features stand where,
the hash of a block is that of its tokens and of the features' digest, and only rows that are read are made.
"""

import dataclasses
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch
from safetensors import safe_open
from vllm.platforms import current_platform
from vllm.plugins import load_plugins_by_group
from vllm.v1.core import kv_cache_utils
from vllm.v1.serial_utils import MsgpackDecoder, OOBTensorConsumer

from .errors import Unavailable
from .features import Features, Reference

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import NewRequestData
    from vllm.v1.request import Request

_PLUGIN = "video_llava_prompt"
_EMBEDDING_TABLE = "model.embed_tokens.weight"
_BLOCK_ROWS = 32


class Span(NamedTuple):
    """Rows of features at positions of a prompt."""

    start: int
    stop: int
    first_row: int
    features: Features


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a prompt's embeddings are made of: rows of the embedding table, but features where a span is."""

    language_model: str
    """the folder with the embedding table"""
    token_ids: np.ndarray
    """int32, shape = (positions,); a placeholder's is repeated over its medium"""
    spans: tuple[Span, ...]
    """in order"""
    dtype: torch.dtype

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Make the rows of positions `start` to `stop`, shape = (stop - start, hidden)."""
        table = load_embedding_table(Path(self.language_model))
        rows = torch.empty((stop - start, table.shape[1]), dtype=self.dtype)
        position = start
        for span, begin, end in self.overlaps(start, stop):
            self._copy_text(rows[position - start : begin - start], table, position)
            first = span.first_row + begin - span.start
            features = torch.from_numpy(span.features.array[first : first + end - begin])
            copy_rows(rows[begin - start : end - start], features)
            position = end
        self._copy_text(rows[position - start :], table, position)
        return rows

    def _copy_text(self, target: torch.Tensor, table: torch.Tensor, position: int) -> None:
        target.copy_(table[self.token_ids[position : position + len(target)]])

    def overlaps(self, start: int, stop: int) -> Iterator[tuple[Span, int, int]]:
        """Yield each span that has positions from `start` to `stop`, with the first and the end of those."""
        for span in self.spans:
            begin, end = max(start, span.start), min(stop, span.stop)
            if begin < end:
                yield span, begin, end

    def pack(self) -> list[Any]:
        """Return plain values; whoever reads them must open the features while this object lives."""
        spans = [[span.start, span.stop, span.first_row, list(span.features.here)] for span in self.spans]
        return [self.language_model, self.token_ids.tobytes(), spans, str(self.dtype).removeprefix("torch.")]

    @classmethod
    def unpack(cls, values: Sequence[Any]) -> "Parts":
        """Make what `pack` describes."""
        language_model, token_ids, spans, dtype = values
        opened = tuple(Span(start, stop, row, _open(Reference(*place))) for start, stop, row, place in spans)
        return cls(language_model, np.frombuffer(token_ids, np.int32).copy(), opened, getattr(torch, dtype))


_opened: WeakValueDictionary[bytes, Features] = WeakValueDictionary()


def _open(reference: Reference) -> Features:
    """Open features once for all prompts of this process."""
    features = _opened.get(reference.digest)
    if features is None:
        try:
            features = _opened[reference.digest] = Features.open(reference)
        except Unavailable:
            # The prompt is gone: its request was cancelled before it came here, and nobody will read the answer.
            return _Nothing(reference._replace(digest=secrets.token_bytes(len(reference.digest))))
    return features


class _Nothing(Features):
    """Zeros, of a digest that no other prompt has."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.array = np.zeros((reference.rows, reference.hidden), reference.dtype)

    @property
    def here(self) -> Reference:
        return self.reference


class PromptTensor(torch.Tensor):
    """Embeddings, shape = (positions, hidden): slices of it are tensors as any other."""

    parts: Parts

    @staticmethod
    def of(parts: Parts, hidden_size: int) -> "PromptTensor":
        """Make the tensor of `parts`."""
        shape = (len(parts.token_ids), hidden_size)
        tensor = torch.empty(shape, dtype=parts.dtype, device="meta").as_subclass(PromptTensor)
        tensor.parts = parts
        return tensor

    def __getitem__(self, rows: Any) -> torch.Tensor:
        start, stop, _ = rows.indices(len(self))
        return self.parts.read(start, max(start, stop))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # vLLM's workers. Ray's may be on other machines.
        if (ray := sys.modules.get("ray")) is not None and ray.is_initialized():
            return self[:].__reduce_ex__(protocol)
        return _unpack, (self.parts.pack(), self.shape[1])


def _unpack(values: Sequence[Any], hidden_size: int) -> PromptTensor:
    return PromptTensor.of(Parts.unpack(values), hidden_size)


class PromptSender(OOBTensorConsumer):
    """For vLLM's encoder: what is sent to the engine's process instead of a tensor's bytes."""

    def __call__(self, tensor: torch.Tensor) -> dict[str, Any] | None:
        """Return plain values for a PromptTensor, None for another."""
        return {_PLUGIN: tensor.parts.pack()} if isinstance(tensor, PromptTensor) else None

    def new_message(self) -> None:
        """Do nothing: no tensor depends on its message."""


def copy_rows(target: torch.Tensor, rows: torch.Tensor) -> None:
    """Copy `rows` into `target`, shape = (rows, hidden_size), converting them to its dtype."""
    if rows.dtype is not torch.float16 or target.dtype is not torch.bfloat16:
        target.copy_(rows)
        return
    # Between these two torch converts number by number, 9 ms for a video of the 7B. Through float32, in blocks that
    # stay in the core's cache, it is 3 ms.
    for part, block in zip(target.split(_BLOCK_ROWS), rows.split(_BLOCK_ROWS), strict=True):
        part.copy_(block.float())


@cache
def load_embedding_table(language_model: Path) -> torch.Tensor:
    """Map the embedding table [vocab_size, hidden_size] of a Llama checkpoint; pages are read as rows are used."""
    for shard in sorted(language_model.glob("*.safetensors")):
        with safe_open(shard, framework="pt") as tensors:
            if _EMBEDDING_TABLE in tensors.keys():  # noqa: SIM118 (not a dict)
                return tensors.get_tensor(_EMBEDDING_TABLE)
    raise FileNotFoundError(
        f"no tensor {_EMBEDDING_TABLE} in {language_model}/*.safetensors: export the checkpoint again"
    )


def is_installed() -> bool:
    """Whether vLLM's processes load `install`: VLLM_PLUGINS may leave it out."""
    return _PLUGIN in load_plugins_by_group("vllm.general_plugins")


def install() -> None:
    """Let vLLM's processes understand such tensors. A plugin of vLLM's (pyproject.toml), run in each of them."""
    _install_decoder()
    _install_hashes()
    if current_platform.is_cuda():
        from vllm.v1.worker.gpu.model_states.prompt_embeds import PromptEmbedsState

        install_copies(PromptEmbedsState)


def _install_decoder() -> None:
    decode_tensor = MsgpackDecoder._decode_tensor

    def decode(self: MsgpackDecoder, encoded: Any) -> torch.Tensor:
        _, shape, data = encoded
        if isinstance(data, Mapping) and _PLUGIN in data:
            return _unpack(data[_PLUGIN], shape[1])
        return decode_tensor(self, encoded)

    vars_of_decoder: Any = MsgpackDecoder
    vars_of_decoder._decode_tensor = decode


def _install_hashes() -> None:
    module: Any = kv_cache_utils
    of_vllm = module._gen_prompt_embeds_extra_hash_keys

    def extra_keys(request: "Request", start: int, end: int) -> list[tuple[str, bytes]]:
        """Return what the hash of the block with positions `start` to `end` depends on. vLLM itself takes the ids of
        embedded positions for 0."""
        prompt = request.prompt_embeds
        if not isinstance(prompt, PromptTensor):
            return of_vllm(request, start, end)
        tokens = ("tokens", prompt.parts.token_ids[start:end].tobytes())
        media = [
            (f"{begin - start}: row {span.first_row + begin - span.start}", span.features.reference.digest)
            for span, begin, _ in prompt.parts.overlaps(start, end)
        ]
        return [tokens, *media]

    module._gen_prompt_embeds_extra_hash_keys = extra_keys


def install_copies(state: Any) -> None:
    """Let vLLM's model runner for GPUs copy only rows that the prefix cache has not got: `state` is its
    PromptEmbedsState, whose kernel reads row r of a prompt at its pointer plus r rows."""
    add_request = state.add_request

    def add(self: Any, req_index: int, new_req_data: "NewRequestData") -> None:
        prompt = new_req_data.prompt_embeds
        if not isinstance(prompt, PromptTensor):
            add_request(self, req_index, new_req_data)
            return
        num_skipped = min(new_req_data.num_computed_tokens, len(prompt) - 1)
        rows = prompt[num_skipped:]
        add_request(self, req_index, dataclasses.replace(new_req_data, prompt_embeds=rows))
        self.embeds_ptrs.np[req_index] -= num_skipped * rows.shape[1] * rows.element_size()
        self.embeds_lens.np[req_index] = len(prompt)

    state.add_request = add
