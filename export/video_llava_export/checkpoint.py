"""A folder or the name of a hub repository becomes an opened checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from . import original
from .adapter import CONFIG_NAME, is_adapter, open_adapter
from .config import ModelConfig, read_config, read_json
from .errors import CheckpointError
from .merging import merge
from .original import Tower
from .parts import Parts, find_parts
from .preprocessing import Preprocessing, original_preprocessing, read_preprocessing
from .quantization import without_leftover
from .tensors import Tensors, has_weights

DOWNLOADED = ("*.safetensors", "*.json", "tokenizer.model")
# Asked for only where there is nothing else.
PICKLED = ("pytorch_model*.bin",)


@dataclass(frozen=True)
class Checkpoint:
    """A Video-LLaVA checkpoint on this machine, its config and preprocessor read and checked.

    `source` is what the user named it, `revision` the hub's commit or None for a local folder. `parts` are the folders
    of its files. An adapter is merged into `tensors` when they are read. `base_tensors` are those that it was trained
    from, where they are known. `notes` say what is not as the checkpoint's own folder has it.
    """

    parts: Parts
    source: str
    revision: str | None
    config: ModelConfig
    preprocessing: Preprocessing
    tensors: Tensors
    base_tensors: Tensors | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Of the weights."""
        return self.parts.weights


def open_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    adapter: str | None = None,
    base: str | None = None,
    towers: Mapping[str, Path] | None = None,
) -> Checkpoint:
    """Open the checkpoint in the folder `source`, or download the hub's `source` at `revision`.

    `adapter`, a PEFT adapter, is merged into it. `base`, from which it was trained, gives the files that it lacks;
    both are folders or hub repositories. `towers`, {medium: folder}, are those of the original layout that do not lie
    beside the checkpoint or in the hub. Raises `CheckpointError`.
    """
    folder = _locate(source, revision)
    adapter_folder = None if adapter is None else _locate(adapter)
    base_folder = None if base is None else _locate(base, patterns=DOWNLOADED[1:])
    _check_adapter(folder, adapter_folder)
    parts = find_parts(folder, adapter=adapter_folder, base=base_folder)
    found = find_towers(parts.config, is_hub=not Path(source).is_dir(), given=towers)
    config = read_config(parts.config, found, tokenizer=parts.tokenizer)
    tensors = Tensors(folder, {medium: tower.folder for medium, tower in found.items() if tower.has_weights})
    notes = list(parts.notes())
    _check_context(config)
    if (raw := without_leftover(config.raw, tensors)) is not config.raw:
        config = replace(config, raw=raw)
        notes.append("the quantization_config of bitsandbytes is left out: the weights are in full precision")
    if adapter_folder is not None:
        merged = merge(open_adapter(adapter_folder), tensors)
        tensors.replace(merged)
        notes.append(f"{len(merged)} tensors are merged with the adapter {adapter}")
    if found:
        preprocessing = original_preprocessing()
    else:
        preprocessing = read_preprocessing(parts.preprocessor, image_size=config.image_size)
    return Checkpoint(
        parts=parts,
        source=source if adapter is None else f"{source} with the adapter {adapter}",
        revision=None if Path(source).is_dir() else folder.name,
        config=config,
        preprocessing=preprocessing,
        tensors=tensors,
        base_tensors=Tensors(base_folder) if base_folder is not None and has_weights(base_folder) else None,
        notes=tuple(notes),
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
        return _download(name, None, DOWNLOADED)
    raise CheckpointError(
        f"the {medium} tower {name} lies neither in {folder} nor beside it; give its folder as --{medium}-tower, "
        "of which config.json is enough where the checkpoint has the weights"
    )


def _check_adapter(folder: Path, adapter: Path | None) -> None:
    """A folder with an adapter is one, or has been merged, or has not: the user must say."""
    if not is_adapter(folder) or (adapter is not None and adapter.samefile(folder)):
        return
    if has_weights(folder):
        raise CheckpointError(
            f"{folder} holds an adapter beside whole weights; remove {CONFIG_NAME} if they are merged, else give "
            f"--adapter {folder}"
        )
    base = read_json(folder / CONFIG_NAME).get("base_model_name_or_path")
    raise CheckpointError(
        f"{folder} is an adapter of {base}; name that base and the adapter: video-llava-export BASE --adapter {folder}"
    )


def _check_context(config: ModelConfig) -> None:
    positions, context = config.num_frames * config.tokens_per_frame, config.text.max_position_embeddings
    if positions >= context:
        raise CheckpointError(
            f"a video of {config.num_frames} frames takes {positions} positions (video_seq_length), the language model "
            f"has {context} (max_position_embeddings); set both in config.json as in the training"
        )


def _locate(source: str, revision: str | None = None, *, patterns: tuple[str, ...] = DOWNLOADED) -> Path:
    if Path(source).is_dir():
        if revision is not None:
            raise CheckpointError(f"--revision {revision} is for the hub, but {source} is a local folder; leave it out")
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise CheckpointError(f"{source} is no folder, and no hub repository like LanguageBind/Video-LLaVA-7B-hf")
    return _download(source, revision, patterns)


def _download(source: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The hub's snapshot folder, which is named after the commit."""
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))
        if patterns == DOWNLOADED and not any(folder.glob("*.safetensors")):
            snapshot_download(source, revision=revision, allow_patterns=list(PICKLED))
        return folder
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        reason = str(exc).strip().splitlines()[0]
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"the hub did not give {source}{at} ({reason}); check the name and the network, or give a local folder"
        ) from exc
