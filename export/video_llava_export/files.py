"""Files that are hashed while they are written, so that they need not be read for it."""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from video_llava_server.manifest import FileFacts

# One core hashes a chunk while another writes it.
CHUNK_BYTES = 16 << 20


def facts_of(path: Path) -> FileFacts:
    """Read the file at `path` for its size and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return FileFacts(size_bytes=path.stat().st_size, sha256=digest.hexdigest())


class HashingFile:
    """A new file inside `with`; after the block it is on the disk itself and `facts` are known.

    with HashingFile(path) as file:
        file.write(data)
    """

    facts: FileFacts

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._digest = hashlib.sha256()
        self._hasher = ThreadPoolExecutor(1, "hasher")
        self._hashing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file, self._hasher:
            if error is None:
                self._wait()
                os.fsync(self._file.fileno())
                self.facts = FileFacts(size_bytes=self._file.tell(), sha256=self._digest.hexdigest())

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, which must stay as it is until the next write."""
        self._wait()
        self._hashing = self._hasher.submit(self._digest.update, data)
        view: Any = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def _wait(self) -> None:
        if self._hashing is not None:
            self._hashing.result()
