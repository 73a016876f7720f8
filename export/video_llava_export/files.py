"""Files that are hashed on their way to the disk, so that no byte is read again for its hash."""

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# What is hashed on one core while it is written on another.
CHUNK_BYTES = 16 << 20


@dataclass(frozen=True)
class FileFacts:
    """What the manifest keeps of a file; `sha256` in hexadecimal."""

    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read the file at `path` for its facts."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        return cls(path.stat().st_size, digest.hexdigest())


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
                self.facts = FileFacts(self._file.tell(), self._digest.hexdigest())

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
