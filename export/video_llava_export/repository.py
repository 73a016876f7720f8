"""A model repository on disk: its committed skeleton, and the exported files that are moved into it as one."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from .errors import RepositoryError
from .manifest import MANIFEST_NAME

WEIGHTS = Path("vicuna/1/weights")
VLLM_ARGUMENTS = Path("vicuna/1/model.json")
_STAGING_PREFIX = ".export-"


def encoder_path(medium: str) -> Path:
    """Where the graph of `medium` ("video" or "image") lies in a repository."""
    return Path(f"{medium}_encoder/1/model.onnx")


def find_skeleton() -> Path:
    """The repository without weights: beside this package in a wheel, at the root in a checkout."""
    here = Path(__file__).resolve()
    packaged, checkout = here.parent / "model_repository", here.parents[2] / "model_repository"
    return packaged if packaged.is_dir() else checkout


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A temporary folder inside `repository`, so that moving out of it is a rename; it goes in any case.

    If the block fails, a `repository` that did not exist before goes as well.
    """
    existed = repository.exists()
    if existed and not repository.is_dir():
        raise RepositoryError(f"{repository} is a file; give a folder")
    repository.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_STAGING_PREFIX, dir=repository))
    try:
        yield folder
    except BaseException:
        if not existed:
            shutil.rmtree(repository)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def stage_skeleton(skeleton: Path, repository: Path, staged: Path) -> None:
    """Copy the skeleton's files that `repository` lacks into `staged`, none of its weights."""
    for path in sorted(skeleton.rglob("*")):
        relative = path.relative_to(skeleton)
        if path.is_file() and not _is_generated(relative) and not (repository / relative).exists():
            (staged / relative).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, staged / relative)


def _is_generated(relative: Path) -> bool:
    """Whether a file of a repository was put there by an export or by Python."""
    return (
        relative == Path(MANIFEST_NAME)
        or relative.match("*/1/model.onnx")
        or relative.is_relative_to(WEIGHTS)
        or "__pycache__" in relative.parts
        or relative.parts[0].startswith(_STAGING_PREFIX)
    )


def stage_vllm_arguments(arguments: dict[str, Any], repository: Path, staged: Path) -> None:
    """Merge `arguments` of vLLM's engine into the repository's `model.json`."""
    present = next((root / VLLM_ARGUMENTS for root in (staged, repository) if (root / VLLM_ARGUMENTS).is_file()), None)
    if present is None:
        raise RepositoryError(f"{repository} has no {VLLM_ARGUMENTS} to merge the vLLM arguments into")
    merged = json.loads(present.read_text(encoding="utf-8")) | arguments
    (staged / VLLM_ARGUMENTS).parent.mkdir(parents=True, exist_ok=True)
    (staged / VLLM_ARGUMENTS).write_text(json.dumps(merged, indent=2) + "\n", encoding="utf-8")


def install(staged: Path, repository: Path) -> None:
    """Move everything staged into `repository`, the manifest last; on any failure put back what was there.

    The old manifest goes before the first part is moved: a repository with a manifest is whole at any time.
    """
    with tempfile.TemporaryDirectory(prefix=_STAGING_PREFIX, dir=repository) as aside, ExitStack() as undo:
        _set_aside(repository / MANIFEST_NAME, Path(aside) / MANIFEST_NAME, undo)
        for relative in _units(staged):
            _set_aside(repository / relative, Path(aside) / relative, undo)
            (repository / relative).parent.mkdir(parents=True, exist_ok=True)
            (staged / relative).replace(repository / relative)
        undo.pop_all()


def _units(staged: Path) -> Iterator[Path]:
    """What is moved in one piece: the weights as a folder, every other file by itself, the manifest last."""
    if (staged / WEIGHTS).is_dir():
        yield WEIGHTS
    for path in sorted(staged.rglob("*")):
        relative = path.relative_to(staged)
        if path.is_file() and relative != Path(MANIFEST_NAME) and not relative.is_relative_to(WEIGHTS):
            yield relative
    yield Path(MANIFEST_NAME)


def _set_aside(present: Path, aside: Path, undo: ExitStack) -> None:
    aside.parent.mkdir(parents=True, exist_ok=True)
    undo.callback(_put_back, present, aside, existed=present.exists())
    if present.exists():
        present.replace(aside)


def _put_back(present: Path, aside: Path, *, existed: bool) -> None:
    if existed and not aside.exists():
        return  # interrupted before it was moved
    if present.is_dir():
        shutil.rmtree(present)
    else:
        present.unlink(missing_ok=True)
    if existed:
        aside.replace(present)
