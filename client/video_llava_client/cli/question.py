"""The words on the command line told apart: media, and the question."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import PromptError
from ..media import is_image


@dataclass(frozen=True)
class Media:
    """Videos and images; which a file is, its content says."""

    videos: tuple[str, ...]
    images: tuple[str, ...]

    @classmethod
    def parse(cls, paths: list[str]) -> Media:
        """Return the files told apart.

        Raises:
            MediaError: One cannot be read.
        """
        images = tuple(path for path in paths if is_image(path))
        return cls(videos=tuple(path for path in paths if path not in images), images=images)


def split_question(arguments: list[str]) -> tuple[list[str], str]:
    """Return the media and the question, which comes last.

    Raises:
        PromptError: The last is a file, so the question was forgotten.
    """
    *media, text = arguments
    if _is_file(text):
        raise PromptError(f"the last argument, {text}, is a file: write the question after it")
    return media, text


def _is_file(text: str) -> bool:
    # A question may be longer than a file's name can be.
    with suppress(OSError):
        return Path(text).is_file()
    return False
