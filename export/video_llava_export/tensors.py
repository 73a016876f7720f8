"""The tensors of a checkpoint by canonical name, read one at a time."""

import json
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open

from . import pickled
from .config import read_json
from .errors import CheckpointError
from .files import read_range
from .names import canonical_name
from .shards import INDEX_NAME, SINGLE_NAME, Source

_UNMERGED = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save|original_module|base_model\.model)\.")
# What training leaves in place of weights.
_OF_TRAINING = {
    "checkpoint-*": "name one of its checkpoints: {}",
    "global_step*": "DeepSpeed's own state is in {}: run zero_to_fp32.py with --safe_serialization there",
    "pytorch_model_fsdp_*": "FSDP's own state is in {}: run accelerate merge-weights",
}


class CheckpointTensor(Source, Protocol):
    """A tensor of a checkpoint: in a file, or made of several when it is read."""

    @property
    def name(self) -> str:
        """For messages."""
        ...


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: path, name in there, shape, and safetensors' word for its dtype (`F16`).

    `begin` is where its bytes are in a safetensors file.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    begin: int = 0

    def read(self) -> torch.Tensor:
        """The tensor itself, on the CPU, in its own dtype."""
        if self.path.suffix == pickled.SUFFIX:
            return pickled.read_pickled(self.path, self.name)
        with safe_open(self.path, framework="pt") as file:
            mapped = file.get_tensor(self.name)
        if not mapped.numel():
            return mapped
        return torch.frombuffer(read_range(self.path, self.begin, mapped.nbytes), dtype=mapped.dtype).view(self.shape)


class Tensors:
    """All tensors of a checkpoint folder: `tensors["video_tower.embeddings.class_embedding"]`.

    `towers` are folders of the original code, {medium: folder}, whose weights are not among those of `folder`, or the
    same. Raises `CheckpointError` for absent or damaged shards, for pickles that are more than weights, and for a state
    that training has left unfinished: LoRA that is not merged, tensors that were not gathered.
    """

    def __init__(self, folder: Path, towers: Mapping[str, Path] | None = None) -> None:
        self._folder = folder
        self._stored: dict[str, CheckpointTensor] = {}
        for stored in stored_tensors(folder):
            self._add(stored)
        for medium, tower in (towers or {}).items():
            self._add_tower(medium, tower)
        if empty := [tensor.name for tensor in self._stored.values() if 0 in tensor.shape]:
            raise CheckpointError(
                f"{folder} holds {len(empty)} tensors without numbers ({empty[0]} first), as DeepSpeed ZeRO-3 leaves "
                "them; run its zero_to_fp32.py with --safe_serialization in the training's folder and export the result"
            )

    def _add(self, stored: StoredTensor) -> None:
        if _UNMERGED.search(stored.name):
            raise CheckpointError(
                f"{self._folder} holds {stored.name}: layers of PEFT, not merged; merge them (merge_and_unload, then "
                "save_pretrained), or export the base with --adapter"
            )
        name = canonical_name(stored.name)
        if other := self._stored.get(name):
            raise CheckpointError(
                f"{self._folder} holds {name} twice, as {other.name} and as {stored.name}; save the checkpoint anew"
            )
        self._stored[name] = stored

    def _add_tower(self, medium: str, folder: Path) -> None:
        """The vision part of a CLIP model; it has a text part too."""
        for stored in stored_tensors(folder):
            if not stored.name.startswith("vision_model."):
                continue
            name = canonical_name(f"{medium}_tower.{stored.name}")
            if (inside := self._stored.get(name)) is None:
                self._stored[name] = stored
            elif not hold_the_same(inside, stored):
                raise CheckpointError(
                    f"{self._folder} and {folder} hold different {name}; the original code takes the folder's: "
                    f"remove the weights there (keep config.json) to export the checkpoint's"
                )

    def replace(self, tensors: Mapping[str, CheckpointTensor]) -> None:
        """Put others in the place of some, by canonical name."""
        self._stored |= tensors

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __getitem__(self, name: str) -> CheckpointTensor:
        if name not in self._stored:
            raise CheckpointError(
                f"{self._folder} holds no tensor {name}; the checkpoint is incomplete, download it again"
            )
        return self._stored[name]


def hold_the_same(one: CheckpointTensor, other: CheckpointTensor) -> bool:
    """Whether two tensors are equal, in the dtype of the first."""
    tensor = one.read()
    return one.shape == other.shape and torch.equal(tensor, other.read().to(tensor.dtype))


def stored_tensors(folder: Path) -> Iterator[StoredTensor]:
    """Every tensor of a folder under its own name; reads headers only. Raises `CheckpointError`."""
    for path in _weight_files(folder):
        yield from read_header(path)


def _weight_files(folder: Path) -> list[Path]:
    """The weights of a checkpoint, by its index where it has one; safetensors before pickles."""
    if (folder / INDEX_NAME).is_file():
        return _indexed_files(folder)
    if (folder / SINGLE_NAME).is_file():
        return [folder / SINGLE_NAME]
    if (folder / pickled.INDEX_NAME).is_file():
        return _indexed_files(folder, pickled.INDEX_NAME)
    if (folder / pickled.SINGLE_NAME).is_file():
        return [folder / pickled.SINGLE_NAME]
    raise CheckpointError(f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}; {_find_advice(folder)}")


def _find_advice(folder: Path) -> str:
    found = ((path, advice) for pattern, advice in _OF_TRAINING.items() for path in sorted(folder.glob(pattern)))
    return next((advice.format(path) for path, advice in found if path.is_dir()), "download the weights")


def has_weights(folder: Path) -> bool:
    """Whether a whole checkpoint's weights lie there."""
    names = (SINGLE_NAME, INDEX_NAME, pickled.SINGLE_NAME, pickled.INDEX_NAME)
    return any((folder / name).is_file() for name in names)


def _indexed_files(folder: Path, index: str = INDEX_NAME) -> list[Path]:
    weight_map = read_json(folder / index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / index} has no weight_map; download it again")
    names = sorted(set(weight_map.values()))
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(names)} shards ({', '.join(missing)}); download them"
        )
    return [folder / name for name in names]


def read_header(path: Path) -> Iterable[StoredTensor]:
    """The tensors of one file; `CheckpointError` where it is damaged."""
    if path.suffix == pickled.SUFFIX:
        return [StoredTensor(path, *facts) for facts in pickled.pickled_shapes(path)]
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: (file.get_slice(name), begin) for name, begin in _begins(path).items()}
            return [
                StoredTensor(path, name, tuple(part.get_shape()), part.get_dtype(), begin)
                for name, (part, begin) in slices.items()
            ]
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(f"{path} is damaged ({exc}); download it again") from exc


def _begins(path: Path) -> dict[str, int]:
    """Where each tensor's bytes are in a sound safetensors file, in their order; safetensors itself does not say."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {name: 8 + size + facts["data_offsets"][0] for name, facts in header.items()}
