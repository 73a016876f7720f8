"""A medium that another process decodes."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ..errors import UnreadableMedia, VideoLlavaError
from ..sources import MediaFile
from .pipe import CHUNK_BYTES


class SharedMedium:
    """How another process gets the content of `media`.

    It opens a path itself; on Linux bytes and regular files are sent as a file descriptor; of all else it asks for
    parts, which `read` returns: downloads, which obey the policy of this process, and file objects made of Python.

    Attributes:
        path: Absolute, if there is one.
        file: An open file that the other process can read, if there is one.
        num_bytes: Its size; 0 for a path.
    """

    def __init__(self, media: MediaFile, closing: ExitStack) -> None:
        self._media = media
        self._handle: Any = media.handle
        self.path: str | None = None
        self.file: int | None = None
        self.num_bytes: int = 0
        if isinstance(media.handle, Path):
            self.path = str(media.handle.absolute())
            return
        with self._own_errors():
            self.num_bytes = self._handle.seek(0, os.SEEK_END)
            file = self._open_file(closing)
            # It opens the file anew, so neither moves the other's position.
            if file is not None and os.access(f"/proc/self/fd/{file}", os.R_OK):
                self.file = file

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Return a part, at most 64 KiB."""
        with self._own_errors():
            self._handle.seek(offset)
            return self._handle.read(min(num_bytes, CHUNK_BYTES))

    def _open_file(self, closing: ExitStack) -> int | None:
        if type(getattr(self._handle, "raw", None)) is io.FileIO:
            self._handle.flush()
            return self._handle.fileno()
        if type(self._handle) is io.BytesIO and hasattr(os, "memfd_create"):
            file = closing.enter_context(os.fdopen(os.memfd_create("medium"), "wb"))
            file.write(self._handle.getbuffer())
            file.flush()
            return file.fileno()
        return None

    @contextmanager
    def _own_errors(self) -> Iterator[None]:
        try:
            yield
        except VideoLlavaError:
            raise
        except (OSError, ValueError) as exc:
            name = self._media.name
            raise UnreadableMedia(f"{name}: cannot be read ({exc}): open it again", source=name) from exc
