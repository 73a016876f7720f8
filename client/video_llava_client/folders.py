"""A folder of numbered pictures: the frames of one video."""

import re
from os import PathLike
from pathlib import Path

from .errors import UnreadableMedia
from .policy import SourcePolicy
from .sources import name_of, scheme_of, to_path

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif"}
_NUM_NAMED = 5


def find_folder(source: object, policy: SourcePolicy) -> Path | None:
    """Return the folder that `source` is the path of; None if it is something else.

    Raises:
        MediaRefused: It is a path, and `policy` allows none: not even whether it exists is looked up.
    """
    if not isinstance(source, str | PathLike) or scheme_of(source) not in ("", "file"):
        return None
    policy.check_path(source=name_of(source))
    try:
        path = to_path(source)
        return path if path.is_dir() else None
    except (OSError, ValueError):  # no name that a file can have
        return None


def list_frames(folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the pictures in natural order (frame9 before frame10), and a warning that names other files."""
    paths = sorted(folder.iterdir(), key=lambda path: (_natural(path.name), path.name))
    frames = [path for path in paths if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]
    if not frames:
        suffixes = ", ".join(sorted(_SUFFIXES))
        message = f"{folder}: is a folder: name one file, or a folder of frames ({suffixes})"
        raise UnreadableMedia(message, source=str(folder))
    others = [path.name for path in paths if path not in set(frames) and not path.name.startswith((".", "Thumbs.db"))]
    named = ", ".join(others[:_NUM_NAMED]) + (" …" if len(others) > _NUM_NAMED else "")
    return frames, (f"folder: {len(others)} files that are no pictures are left out: {named}",) if others else ()


def _natural(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)]
