"""Uploaded files on disk."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import time
import weakref
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger("video_llava_gateway")

PREFIX = "file-"
"""What the id of each file begins with."""

_NAME = re.compile(r"(file-[0-9a-f]{32})(\.json)?")


@dataclass(frozen=True)
class StoredFile:
    """A whole file.

    Attributes:
        id: Random, 128 bits.
        owner: The name of the key that uploaded it.
        digest: Of its content, the same as for data in a request.
        created_at, expires_at: Seconds since 1970.
    """

    id: str
    owner: str
    filename: str
    purpose: str
    num_bytes: int
    digest: str
    created_at: int
    expires_at: int


class Folder:
    """A folder of files, for one process at a time.

    `ID` is the content, `ID.json` its `StoredFile`. The latter is written last and removed first: content without it
    is of an upload that has not ended. Other files in the folder are left alone.

    Args:
        path: Made if there is none.

    Raises:
        OSError: It cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_file = _lock(path / "lock")

    def close(self) -> None:
        """Let another process use it."""
        self._lock_file.close()

    def load(self) -> list[StoredFile]:
        """Return the files that are whole, the oldest first; remove expired ones and the remains of others."""
        files: list[StoredFile] = []
        for file_id in {found[1] for path in self._path.iterdir() if (found := _NAME.fullmatch(path.name))}:
            with suppress(OSError, ValueError, TypeError):
                file = StoredFile(**json.loads(self._about(file_id).read_text(encoding="utf-8")))
                is_whole = file.id == file_id and file.num_bytes == self.path(file_id).stat().st_size
                if is_whole and file.expires_at > time.time():
                    files.append(file)
                    continue
            self.remove(file_id)
        return sorted(files, key=lambda file: file.created_at)

    def create(self, file_id: str) -> io.FileIO:
        """Begin the content of a new file."""
        return _create(self.path(file_id))

    def describe(self, file: StoredFile) -> None:
        """Say that the content of a file is whole."""
        with _create(self._about(file.id)) as about:
            write(about, memoryview(json.dumps(asdict(file)).encode()))

    def open(self, file: StoredFile) -> BinaryIO:
        """Open a file, as `open_to_decode`; its name in messages is its id."""
        return open_to_decode(self.path(file.id))

    def remove(self, file_id: str) -> None:
        """Remove a file, whole or not. Who has opened it may read on."""
        for path in (self._about(file_id), self.path(file_id)):
            try:
                path.unlink(missing_ok=True)
            except OSError as exc:
                log.error("%s: cannot be removed: %s", path, exc)

    def path(self, file_id: str) -> Path:
        """Return where the content of a file is."""
        return self._path / file_id

    def _about(self, file_id: str) -> Path:
        return self._path / f"{file_id}.json"


def open_to_decode(path: Path) -> BinaryIO:
    """Open a file; it is closed when nobody refers to it any more. In messages it has the last part of its path.

    A thread that decodes may need it longer than the request that began it: if the request closed it, the thread might
    read another file that got the same descriptor.
    """
    descriptor = os.open(path, os.O_RDONLY)
    raw = io.FileIO(descriptor, closefd=False)
    raw.name = path.name
    reader = io.BufferedReader(raw)
    weakref.finalize(reader, os.close, descriptor)
    return reader


def write(file: io.FileIO, data: memoryview) -> None:
    """Write all of `data`."""
    while data:
        data = data[file.write(data) :]


def _create(path: Path) -> io.FileIO:
    return io.FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _lock(path: Path) -> BinaryIO:
    """Open a file that one process can have open at a time."""
    file = path.open("wb")
    with suppress(ImportError):  # Windows
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            file.close()
            raise OSError(errno.EBUSY, "another gateway uses this folder") from exc
    return file
