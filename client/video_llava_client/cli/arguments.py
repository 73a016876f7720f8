"""The arguments of a command: files, and the question."""

from __future__ import annotations

import re
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import PromptError

if TYPE_CHECKING:
    from ..workers.pool import DecoderProcesses

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+|data:\S+", re.IGNORECASE)


@dataclass(frozen=True)
class MediaPaths:
    """Videos and images, by path or address; what a pipe had in it is a file object."""

    videos: tuple[str | BinaryIO, ...]
    images: tuple[str | BinaryIO, ...]

    @classmethod
    def from_arguments(
        cls, paths: list[str], opened: ExitStack, decoders: DecoderProcesses | None = None
    ) -> MediaPaths:
        """Return the paths sorted by what the files contain, as `decoders` read it. `opened` closes file objects."""
        if not paths:
            return cls((), ())
        from ..images import is_image

        sources = [_rereadable(path, opened) for path in paths]
        kinds = [is_image(source, decoders=decoders) for source in sources]
        return cls(
            videos=tuple(source for source, is_one in zip(sources, kinds, strict=True) if not is_one),
            images=tuple(source for source, is_one in zip(sources, kinds, strict=True) if is_one),
        )


def split_question(arguments: list[str]) -> tuple[list[str], str]:
    """Return the media and the question, which comes last."""
    *media, text = arguments
    kind = "an address" if _ADDRESS.fullmatch(text) else "a file" if _exists(text) else ""
    if kind:
        raise PromptError(f"the last argument, {text}, is {kind}: write the question after it")
    return media, text


def _exists(text: str) -> bool:
    # A question may be longer than the name of a file can be, or have a NUL.
    with suppress(OSError, ValueError):
        return Path(text).exists()
    return False


def is_pipe(path: str) -> bool:
    """Whether the path is neither a file nor a folder, so that it can be read only once."""
    return _exists(path) and not Path(path).is_file() and not Path(path).is_dir()


def _rereadable(path: str, opened: ExitStack) -> str | BinaryIO:
    """Return the path, or for a pipe a temporary file with its content."""
    if not is_pipe(path):
        return path
    from ..limits import MediaLimits
    from ..sources import open_media

    content = opened.enter_context(open_media(path, MediaLimits())).rewound()
    return path if isinstance(content, Path) else content
