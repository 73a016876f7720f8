"""The tensors of a checkpoint by canonical name, read one at a time."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from . import pickled
from .config import read_json
from .errors import CheckpointError
from .names import canonical_name
from .shards import INDEX_NAME, SINGLE_NAME


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: path, name in there, shape, and safetensors' word for its dtype (`F16`)."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> torch.Tensor:
        """The tensor itself, on the CPU, in its own dtype."""
        if self.path.suffix == pickled.SUFFIX:
            return pickled.read_pickled(self.path, self.name)
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.name)


class Tensors:
    """All tensors of a checkpoint folder: `tensors["video_tower.embeddings.class_embedding"]`.

    `towers` are folders of the original code, {medium: folder}, whose weights are not among those of `folder`, or the
    same. Raises `CheckpointError` for absent or damaged shards, and for pickles that are more than weights.
    """

    def __init__(self, folder: Path, towers: Mapping[str, Path] | None = None) -> None:
        self._folder = folder
        self._stored: dict[str, StoredTensor] = {}
        for stored in stored_tensors(folder):
            self._add(stored)
        for medium, tower in (towers or {}).items():
            self._add_tower(medium, tower)

    def _add(self, stored: StoredTensor) -> None:
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
            elif not _hold_the_same(inside, stored):
                raise CheckpointError(
                    f"{self._folder} and {folder} hold different {name}; the original code takes the folder's: "
                    f"remove the weights there (keep config.json) to export the checkpoint's"
                )

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __getitem__(self, name: str) -> StoredTensor:
        if name not in self._stored:
            raise CheckpointError(
                f"{self._folder} holds no tensor {name}; the checkpoint is incomplete, download it again"
            )
        return self._stored[name]


def _hold_the_same(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two tensors are equal, in the dtype of the first."""
    tensor = one.read()
    return one.shape == other.shape and torch.equal(tensor, other.read().to(tensor.dtype))


def stored_tensors(folder: Path) -> Iterator[StoredTensor]:
    """Every tensor of a folder under its own name; reads headers only. Raises `CheckpointError`."""
    for path in _weight_files(folder):
        yield from _read_header(path)


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
    raise CheckpointError(f"{folder} holds neither {SINGLE_NAME} nor {INDEX_NAME}; download the weights")


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


def _read_header(path: Path) -> Iterable[StoredTensor]:
    if path.suffix == pickled.SUFFIX:
        return [StoredTensor(path, *facts) for facts in pickled.pickled_shapes(path)]
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return [
                StoredTensor(path, name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()
            ]
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(f"{path} is damaged ({exc}); download it again") from exc
