"""A model repository on disk: built whole beside the old one, then put in its place in one step.

    models/            what Triton serves
    .models.export/    while an export runs, and after one that was killed
        new/           the whole repository to be
        old/           for an instant, where the file system cannot exchange two folders

The step is one rename, so `models/` is the old or the new repository at any moment, whatever is killed when. What an
export leaves behind is removed by the next one.
"""

import ctypes
import errno
import fcntl
import filecmp
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import RepositoryError
from .manifest import MANIFEST_NAME
from .progress import Report

WEIGHTS = Path("vicuna/1/weights")
VLLM_ARGUMENTS = Path("vicuna/1/model.json")
# Of linux/fs.h and fcntl.h.
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def encoder_path(medium: str) -> Path:
    """Where the graph of `medium` ("video" or "image") lies in a repository."""
    return Path(f"{medium}_encoder/1/model.onnx")


def find_skeleton() -> Path:
    """The repository without weights: beside this package in a wheel, at the root in a checkout."""
    here = Path(__file__).resolve()
    packaged, checkout = here.parent / "model_repository", here.parents[2] / "model_repository"
    return packaged if packaged.is_dir() else checkout


def workspace_of(repository: Path) -> Path:
    """Where an export into `repository` works: beside it, so that its result needs but a rename."""
    return repository.with_name(f".{repository.name}.export")


@contextmanager
def staging(repository: Path, *, report: Report = lambda _: None) -> Iterator[Path]:
    """An empty folder for the repository to be; `install` makes it `repository`. It goes in any case.

    Raises `RepositoryError` where `repository` cannot be replaced, or another export into it is running.
    """
    repository = repository.resolve()
    if repository.exists() and not repository.is_dir():
        raise RepositoryError(f"{repository} is a file; give a folder")
    if repository.is_mount():
        raise RepositoryError(
            f"{repository} is a mount point, which cannot be replaced in one step; give a folder in it, such as "
            f"{repository / 'models'}"
        )
    repository.parent.mkdir(parents=True, exist_ok=True)
    workspace = workspace_of(repository)
    with _locked(workspace, repository):
        try:
            _tidy(workspace, repository, report)
            (workspace / "new").mkdir()
            yield workspace / "new"
        finally:
            shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def _locked(workspace: Path, repository: Path) -> Iterator[None]:
    """Hold the lock of `workspace`, which is made if need be; it ends with the process, however that ends."""
    workspace.mkdir(exist_ok=True)
    descriptor = os.open(workspace, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The other export may have removed the folder between the two lines above.
        if not workspace.exists() or not os.path.samestat(workspace.stat(), os.fstat(descriptor)):
            raise BlockingIOError
        yield
    except BlockingIOError as exc:
        raise RepositoryError(f"another export into {repository} is running; wait for its end") from exc
    finally:
        os.close(descriptor)


def _tidy(workspace: Path, repository: Path, report: Report) -> None:
    """Undo what a killed export left: the old repository first, should it have been on its way out."""
    if (workspace / "old").is_dir() and not repository.exists():
        (workspace / "old").rename(repository)
        report(f"put back {repository}, which an interrupted export had moved away")
    if leftovers := list(workspace.iterdir()):
        report("removed what an interrupted export had left")
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise `RepositoryError` unless the disk of `folder` has that much to spare."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise RepositoryError(
            f"the export needs {needed_bytes / 1e9:,.1f} GB beside the old model, {folder} has "
            f"{free_bytes / 1e9:,.1f} GB free; make room or give a folder on another disk"
        )


def stage_files(skeleton: Path, repository: Path, staged: Path, *, report: Report = lambda _: None) -> None:
    """Copy what is not exported: the repository's own files as they are, the skeleton's where it has none.

    The code of the skeleton's models is the skeleton's in any case: that of another release in the repository would
    meet weights and a manifest that it does not know.
    """
    _report_differences(skeleton, repository, report)
    for source in (repository, skeleton):
        for path in sorted(source.rglob("*")):
            relative = path.relative_to(source)
            if _is_generated(relative) or os.path.lexists(staged / relative):
                continue
            if source == skeleton or not _is_code(relative, skeleton):
                _copy(path, staged / relative)
    for path in repository.glob("*/1/*.plan"):
        report(f"left out {path.relative_to(repository)}: built from the old model; deploy/tensorrt builds it anew")


def _report_differences(skeleton: Path, repository: Path, report: Report) -> None:
    """Say which files of the repository are not as the skeleton has them, and which of the two is taken."""
    for path in sorted(repository.rglob("*")):
        relative = path.relative_to(repository)
        ours = skeleton / relative
        if _is_generated(relative) or not path.is_file() or (ours.is_file() and filecmp.cmp(path, ours, shallow=False)):
            continue
        if _is_code(relative, skeleton):
            report(f"left out {relative}: not this release's code")
        elif ours.is_file() and relative != VLLM_ARGUMENTS:
            report(f"kept {relative}, which differs from this release's: see whether your changes still fit it")


def _is_code(relative: Path, skeleton: Path) -> bool:
    """Whether a file of a repository is code of one of the skeleton's models."""
    return relative.suffix == ".py" and (skeleton / relative.parts[0]).is_dir()


def _copy(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        target.mkdir(parents=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target, follow_symlinks=False)


def _is_generated(relative: Path) -> bool:
    """Whether a file of a repository was made from a checkpoint, or by Python."""
    return (
        relative == Path(MANIFEST_NAME)
        or any(relative.match(f"*/1/{name}") for name in ("model.onnx", "model.onnx.data", "*.plan"))
        or relative.is_relative_to(WEIGHTS)
        or "__pycache__" in relative.parts
    )


def stage_vllm_arguments(arguments: dict[str, Any], staged: Path) -> None:
    """Merge `arguments` of vLLM's engine into the `model.json` that is staged."""
    path = staged / VLLM_ARGUMENTS
    if not path.is_file():
        raise RepositoryError(f"the repository has no {VLLM_ARGUMENTS} to merge the vLLM arguments into")
    merged = json.loads(path.read_text(encoding="utf-8")) | arguments
    path.write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")


def install(staged: Path, repository: Path) -> None:
    """Put `staged` in the place of `repository` in one step; what was there goes with the staging."""
    repository = repository.resolve()
    try:
        if not repository.exists():
            staged.rename(repository)
        elif not _exchange(staged, repository):
            repository.rename(staged.with_name("old"))
            staged.rename(repository)
    except OSError as exc:
        raise RepositoryError(
            f"{repository} cannot be renamed ({exc.strerror}); give a folder on another file system, such as a volume"
        ) from exc
    _flush(repository.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places; False where the file system cannot (NFS)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    if (code := ctypes.get_errno()) in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code))


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
