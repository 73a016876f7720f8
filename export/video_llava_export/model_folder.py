"""Model folders on disk: each is built beside the others and gets its name by one rename.

    DIR/
        Video-LLaVA-7B-hf-0123456789ab/    a model folder, never written again
        .export-4f1c09aa/                  one that is being built (locked), or that a killed export left

The next export into DIR removes what killed ones left.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from video_llava_server.manifest import Manifest, ModelFolderError

from .errors import OptionError, TargetError
from .progress import Report

_PREFIX = ".export-"
_NAME_IS_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)


def check_id(model_id: str) -> None:
    """Raise `OptionError` unless `model_id` can name a folder anywhere."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", model_id):
        raise OptionError(
            f"--id {model_id!r} cannot name a folder; take letters, digits, '.', '_' and '-', at most 128 of them"
        )


def with_id(manifest: Manifest) -> Manifest:
    """The manifest itself, or if it has no id yet, with `<checkpoint's name>-<twelve hex digits of the content>`."""
    if manifest.id:
        return manifest
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(manifest.source).resolve().name).strip(".-_")[:100]
    return replace(manifest, id=f"{name or 'model'}-{manifest.content_digest}")


@contextmanager
def building(into: Path, *, report: Report = lambda _: None) -> Iterator[Path]:
    """An empty folder in `into` to build a model in; removed at the end unless `place` has renamed it."""
    into.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(into, report)
    folder, lock = _make_locked(into)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_leftovers(into: Path, report: Report) -> None:
    for folder in into.glob(f"{_PREFIX}*"):
        if (lock := _lock(folder)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
            report(f"removed {folder.name}, left by an export that was killed")


def _make_locked(into: Path) -> tuple[Path, int]:
    while True:  # until it is locked, another export may take the folder for a leftover
        folder = into / f"{_PREFIX}{secrets.token_hex(4)}"
        folder.mkdir()
        if (lock := _lock(folder)) is not None:
            return folder, lock


def _lock(folder: Path) -> int | None:
    """Lock `folder` until the descriptor is closed or the process ends; None if it is locked, or gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(folder.stat(), os.fstat(descriptor)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise `TargetError` unless the disk of `folder` has that much to spare."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise TargetError(
            f"the model needs {needed_bytes / 1e9:,.1f} GB, {folder.parent} has {free_bytes / 1e9:,.1f} GB free; "
            "make room, or name a folder on another disk"
        )


def place(folder: Path, into: Path, manifest: Manifest, *, report: Report = lambda _: None) -> Path:
    """Write `manifest` into the built `folder` and rename it to `into`/id, where the same model may lie already.

    Raises `TargetError` if something else has that name.
    """
    target = into / manifest.id
    manifest.write(folder)
    for path in (*folder.rglob("*"), folder):
        _flush(path)
    try:
        folder.rename(target)
    except OSError as exc:
        if exc.errno not in _NAME_IS_TAKEN:
            raise
        _check_same(target, manifest)
        report(f"{target} holds this model already and stays as it is")
    _flush(into)
    return target


def _check_same(target: Path, manifest: Manifest) -> None:
    try:
        found = Manifest.read(target)
        found.check_sizes(target)
    except ModelFolderError as exc:
        raise TargetError(f"{target} exists, but is not a whole model ({exc}); remove it or take another --id") from exc
    if found.content_digest != manifest.content_digest:
        raise TargetError(
            f"{target} holds another model (of {found.source}, content {found.content_digest}; this one is "
            f"{manifest.content_digest}); model folders are never written again: take another --id"
        )


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
