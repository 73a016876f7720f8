"""Parts of a model folder that an earlier export has written from the same inputs are taken, not made again.

A recipe says what a part is made of: the files of the checkpoint by inode, size and times, each tensor's place in them,
and every option. Whoever writes to a file changes its `ctime`, which no program can set; so the same recipe means the
same bytes, and nothing has to be read to know it. The manifest keeps the recipes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from video_llava_server.manifest import ENCODERS, LANGUAGE_MODEL, NAME, FileFacts, Manifest, ModelFolderError

from .files import copy, link_all
from .progress import Report

# Small files beside the shards, such as the tokenizer's, are always written.
PATTERNS = {ENCODERS: f"{ENCODERS}/*", LANGUAGE_MODEL: f"{LANGUAGE_MODEL}/*.safetensors*"}


def recipe_of(*inputs: Any) -> str:
    """SHA-256 (hex) of what a part is made of; `TypeError` for what has no such description."""
    return hashlib.sha256(json.dumps(_describe(inputs)).encode()).hexdigest()


def _describe(value: Any) -> Any:
    if isinstance(value, Path):
        status = value.stat()
        return [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    if is_dataclass(value):
        return [type(value).__name__, *(_describe(getattr(value, part.name)) for part in fields(value) if part.compare)]
    if isinstance(value, Mapping):
        return [[key, _describe(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if isinstance(value, torch.dtype):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a {type(value).__name__} has no description that says what it is made of")


def take_part(part: str, recipe: str, folder: Path, *, report: Report) -> dict[Path, FileFacts] | None:
    """Take the files of `part` from a model beside `folder` that has the same recipe; None if there is none.

    The language model's are hard links: they are neither read nor written. The encoders', which the onnx package
    refuses when they have a second name, are copied, and their SHA-256 must be the manifest's.
    """
    for manifest in sorted(folder.parent.glob(f"*/{NAME}")):
        files = _find(manifest, part, recipe)
        sources = {folder / name: manifest.parent / name for name in files}
        for target in sources:
            target.parent.mkdir(parents=True, exist_ok=True)
        links = part == LANGUAGE_MODEL
        if sources and (link_all(sources) if links else _copy_all(sources, list(files.values()))):
            report(f"{part:<16}{'linked' if links else 'copied'} from {manifest.parent}")
            return {folder / name: facts for name, facts in files.items()}
    return None


def _find(path: Path, part: str, recipe: str) -> dict[str, FileFacts]:
    """The part's files in the model of the manifest at `path`; none if they cannot be taken.

    They must have their sizes, and no change since the manifest was written.
    """
    try:
        manifest = Manifest.read(path.parent)
        if manifest.recipes.get(part) != recipe:
            return {}
        files = {name: facts for name, facts in manifest.files.items() if Path(name).match(PATTERNS[part])}
        statuses = {name: (path.parent / name).stat() for name in files}
        written = path.stat().st_mtime_ns
    except (ModelFolderError, OSError):
        return {}
    whole = all(statuses[name].st_size == facts.size_bytes for name, facts in files.items())
    return files if whole and all(status.st_mtime_ns <= written for status in statuses.values()) else {}


def _copy_all(sources: Mapping[Path, Path], expected: Sequence[FileFacts]) -> bool:
    """Copy every file, or none if one is not what its export wrote."""
    try:
        if [copy(source, target) for target, source in sources.items()] == expected:
            return True
    except FileNotFoundError:  # removed meanwhile
        pass
    for target in sources:
        target.unlink(missing_ok=True)
    return False
