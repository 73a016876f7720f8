"""A folder or the name of a hub repository becomes an opened checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from . import original
from .config import ModelConfig, read_config, read_json
from .errors import CheckpointError
from .original import Tower
from .preprocessing import Preprocessing, original_preprocessing, read_preprocessing
from .tensors import Tensors

DOWNLOADED = ("*.safetensors", "*.json", "tokenizer.model")
# Asked for only where there is nothing else.
PICKLED = ("pytorch_model*.bin",)


@dataclass(frozen=True)
class Checkpoint:
    """A Video-LLaVA checkpoint on this machine, its config and preprocessor read and checked.

    `source` is what the user named it, `revision` the hub's commit or None for a local folder.
    """

    folder: Path
    source: str
    revision: str | None
    config: ModelConfig
    preprocessing: Preprocessing
    tensors: Tensors


def open_checkpoint(
    source: str, *, revision: str | None = None, towers: Mapping[str, Path] | None = None
) -> Checkpoint:
    """Open the checkpoint in the folder `source`, or download the hub's `source` at `revision`.

    `towers`, {medium: folder}, are those of the original layout that do not lie beside the checkpoint or in the hub.
    Raises `CheckpointError`.
    """
    folder = _locate(source, revision)
    found = find_towers(folder, is_hub=not Path(source).is_dir(), given=towers)
    config = read_config(folder, found)
    if found:
        weights = {medium: tower.folder for medium, tower in found.items() if tower.has_weights}
        preprocessing, tensors = original_preprocessing(), Tensors(folder, weights)
    else:
        preprocessing, tensors = read_preprocessing(folder, image_size=config.image_size), Tensors(folder)
    return Checkpoint(
        folder=folder,
        source=source,
        revision=None if Path(source).is_dir() else folder.name,
        config=config,
        preprocessing=preprocessing,
        tensors=tensors,
    )


def find_towers(folder: Path, *, is_hub: bool = False, given: Mapping[str, Path] | None = None) -> dict[str, Tower]:
    """The towers of the original layout, for which the hub may be asked; none of another layout."""
    given = given or {}
    raw = read_json(folder / "config.json")
    if not original.is_original(raw):
        if given:
            raise CheckpointError(f"{folder} has its towers inside; --image-tower and --video-tower are for others")
        return {}
    folders = {medium: _find_tower(folder, raw, medium, is_hub=is_hub, given=given) for medium in original.MEDIA}
    return {medium: Tower(path, read_json(path / "config.json")) for medium, path in folders.items()}


def _find_tower(folder: Path, raw: dict[str, Any], medium: str, *, is_hub: bool, given: Mapping[str, Path]) -> Path:
    if medium in given:
        return given[medium]
    name = original.tower_name(raw, medium)
    for path in (Path(name), folder / Path(name).name, folder.parent / Path(name).name):
        if path.is_dir():
            return path
    if is_hub and name.count("/") == 1:
        return _download(name, None)
    raise CheckpointError(
        f"the {medium} tower {name} lies neither in {folder} nor beside it; give its folder as --{medium}-tower, "
        "of which config.json is enough where the checkpoint has the weights"
    )


def _locate(source: str, revision: str | None) -> Path:
    if Path(source).is_dir():
        if revision is not None:
            raise CheckpointError(f"--revision {revision} is for the hub, but {source} is a local folder; leave it out")
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise CheckpointError(f"{source} is no folder, and no hub repository like LanguageBind/Video-LLaVA-7B-hf")
    return _download(source, revision)


def _download(source: str, revision: str | None) -> Path:
    """The hub's snapshot folder, which is named after the commit."""
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(DOWNLOADED)))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(source, revision=revision, allow_patterns=list(PICKLED))
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        reason = str(exc).strip().splitlines()[0]
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"the hub did not give {source}{at} ({reason}); check the name and the network, or give a local folder"
        ) from exc
