"""Files that are hashed while they are written, read back from the disk, linked or copied.

Writing and reading back go past the page cache where the file system allows it (`O_DIRECT`): that costs a fraction of
the CPU time, drops nothing that others keep there, and what is read back comes from the disk.
"""

import fcntl
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from mmap import mmap
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from video_llava_server.manifest import FileFacts

from .errors import VerificationError

# One buffer is hashed and written while the next is filled.
CHUNK_BYTES = 16 << 20
# Addresses, offsets and sizes of direct accesses are multiples of it.
_BLOCK_BYTES = 4096


def facts_of(path: Path) -> FileFacts:
    """Read the file at `path` for its size and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1, "hasher") as hasher:
        _set_direct(file.fileno(), True)
        size, offset, buffers, hashing = os.fstat(file.fileno()).st_size, 0, _two_buffers(), None
        while offset < size and (num_bytes := os.preadv(file.fileno(), buffers[:1], offset)):
            if hashing is not None:
                hashing.result()
            hashing = hasher.submit(digest.update, buffers[0][:num_bytes])
            buffers.reverse()
            offset += num_bytes
    return FileFacts(size_bytes=offset, sha256=digest.hexdigest())


def read_back(path: Path, expected: FileFacts) -> None:
    """Read what was written to `path`; `VerificationError` unless it is that."""
    if facts_of(path) != expected:
        raise VerificationError(f"{path.name} reads back other than it was written; check the disk")


def read_range(path: Path, begin: int, size: int) -> memoryview:
    """`size` bytes of a file from `begin` on; `EOFError` where it ends before.

    Page faults of a mapping would cost ten times the CPU time, at half the speed.
    """
    first = begin - begin % _BLOCK_BYTES
    buffer = memoryview(mmap(-1, -(-(begin + size - first) // _BLOCK_BYTES) * _BLOCK_BYTES))
    num_read = 0
    with path.open("rb", buffering=0) as file:
        _set_direct(file.fileno(), True)
        while num_read < begin + size - first:
            num_bytes = os.preadv(file.fileno(), [buffer[num_read : num_read + CHUNK_BYTES]], first + num_read)
            if not num_bytes:
                raise EOFError(f"{path} ends at {first + num_read}, before {begin + size}")
            num_read += num_bytes
    return buffer[begin - first :][:size]


def copy(source: Path, target: Path) -> FileFacts:
    """Copy a file; returns the facts of what was read."""
    with HashingFile(target) as file, source.open("rb", buffering=0) as opened:
        buffer = memoryview(mmap(-1, CHUNK_BYTES))
        _set_direct(opened.fileno(), True)
        size, offset = os.fstat(opened.fileno()).st_size, 0
        while offset < size and (num_bytes := os.preadv(opened.fileno(), [buffer], offset)):
            file.write(buffer[:num_bytes])
            offset += num_bytes
    return file.facts


def link_all(sources: Mapping[Path, Path]) -> bool:
    """Make every target a hard link of its source, or none; whether the file system allowed it."""
    for target, source in sources.items():
        try:
            os.link(source.resolve(), target)
        except OSError:
            for made in sources:
                made.unlink(missing_ok=True)
            return False
    return True


class HashingFile:
    """A new file inside `with`; after the block it is on the disk itself and `facts` are known.

    with HashingFile(path) as file:
        file.write(data)
    """

    facts: FileFacts

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        _set_direct(self._file.fileno(), True)
        self._digest = hashlib.sha256()
        self._buffers, self._num_filled, self._num_written = _two_buffers(), 0, 0
        self._workers = ThreadPoolExecutor(2, "hasher and writer")
        self._jobs: list[Future[None]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file, self._workers:
            if error is None:
                self._flush()
                self._wait()
                os.fsync(self._file.fileno())
                self.facts = FileFacts(size_bytes=self._num_written, sha256=self._digest.hexdigest())

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        view: Any = memoryview(data)
        while view:
            part = view[: CHUNK_BYTES - self._num_filled]
            self._buffers[0][self._num_filled : self._num_filled + len(part)] = part
            self._num_filled += len(part)
            view = view[len(part) :]
            if self._num_filled == CHUNK_BYTES:
                self._flush()

    def _flush(self) -> None:
        """Hash and write the buffer that is filled, once the other is done with."""
        self._wait()
        chunk = self._buffers[0][: self._num_filled]
        self._jobs = [self._workers.submit(self._digest.update, chunk), self._workers.submit(self._append, chunk)]
        self._buffers.reverse()
        self._num_filled = 0

    def _wait(self) -> None:
        for job in self._jobs:
            job.result()

    def _append(self, chunk: memoryview) -> None:
        if len(chunk) % _BLOCK_BYTES:  # the end of the file
            _set_direct(self._file.fileno(), False)
        while chunk:
            num_bytes = self._file.write(chunk)
            self._num_written += num_bytes
            chunk = chunk[num_bytes:]


def _two_buffers() -> list[memoryview]:
    return [memoryview(mmap(-1, CHUNK_BYTES)) for _ in range(2)]


def _set_direct(descriptor: int, on: bool) -> None:
    """Whether to go past the page cache; without effect where the file system cannot."""
    direct = getattr(os, "O_DIRECT", 0)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~direct
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | direct if on else flags)
