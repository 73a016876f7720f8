"""The arguments of a command: files, and the question."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import PromptError


@dataclass(frozen=True)
class MediaPaths:
    """Paths and addresses of videos and images."""

    videos: tuple[str, ...]
    images: tuple[str, ...]

    @classmethod
    def from_arguments(cls, paths: list[str]) -> MediaPaths:
        """Return the paths sorted by what the files contain."""
        if not paths:
            return cls((), ())
        from ..images import is_image

        images = tuple(path for path in paths if is_image(path))
        return cls(videos=tuple(path for path in paths if path not in images), images=images)


def split_question(arguments: list[str]) -> tuple[list[str], str]:
    """Return the media and the question, which comes last."""
    *media, text = arguments
    if _is_file(text):
        raise PromptError(f"the last argument, {text}, is a file: write the question after it")
    return media, text


def _is_file(text: str) -> bool:
    # A question may be longer than the name of a file can be.
    with suppress(OSError):
        return Path(text).is_file()
    return False
