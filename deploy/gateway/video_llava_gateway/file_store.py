"""Files that callers have uploaded: on disk, with a quota and a lifetime."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import io
import json
import logging
import os
import re
import secrets
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from .errors import ApiError

T = TypeVar("T")
log = logging.getLogger("video_llava_gateway")

PREFIX = "file-"
"""What the id of each file begins with."""

DIGEST_BYTES = 16
"""Of a digest of content, by BLAKE2b."""

_NAME = re.compile(r"(file-[0-9a-f]{32})(\.json)?")
# Each file counts this much more: a million empty ones need memory and inodes too.
_EXTRA_BYTES = 64 * 1024
_NUM_THREADS = 4


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


class FileStore:
    """The files in a folder, which survive a restart. All but `Upload` is for the event loop's thread.

    `ID` is the content, `ID.json` its `StoredFile`. The latter is written last and removed first: content without it
    is of an upload that has not ended, and goes at the next start. Other files in the folder are left alone.

    Args:
        folder: Made if there is none. One gateway at a time.
        max_bytes: Of all files.
        max_file_bytes: Of one.

    Raises:
        OSError: The folder cannot be used.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_file_bytes: int) -> None:
        self.max_file_bytes = max_file_bytes
        self._folder = folder
        self._max_bytes = max_bytes
        self._taken: Counter[str] = Counter()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock_file = _lock(folder / "lock")
        self._files = _load(folder)
        for file in self._files.values():
            self._taken[file.owner] += file.num_bytes + _EXTRA_BYTES
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "video-llava-files")

    def close(self) -> None:
        """Let another process use the folder."""
        self._lock_file.close()

    @property
    def num_files(self) -> int:
        """How many there are."""
        return len(self._files)

    @property
    def num_bytes(self) -> int:
        """What counts for the quota, uploads that run included."""
        return self._taken.total()

    def of(self, owner: str) -> list[StoredFile]:
        """Return the files of a key, the oldest first."""
        now = time.time()
        return [file for file in self._files.values() if file.owner == owner and file.expires_at > now]

    def find(self, owner: str, file_id: str) -> StoredFile:
        """Return a file of a key; ApiError 404 if there is none."""
        file = self._files.get(file_id)
        if file is None or file.owner != owner or file.expires_at <= time.time():
            message = f"there is no file {file_id[:50]!r}, or it has expired: upload it again"
            raise ApiError(404, message, code="file_not_found")
        return file

    def path(self, file: StoredFile) -> Path:
        """Return where its content is."""
        return self._folder / file.id

    def open(self, file: StoredFile) -> BinaryIO:
        """Open a file; it is closed when nobody refers to it any more.

        A thread that decodes may need it longer than the request that began it: if the request closed it, the thread
        might read another file that got the same descriptor. Its name in messages is its id.
        """
        descriptor = os.open(self.path(file), os.O_RDONLY)
        raw = io.FileIO(descriptor, closefd=False)
        raw.name = file.id
        reader = io.BufferedReader(raw)
        weakref.finalize(reader, os.close, descriptor)
        return reader

    def begin(self, owner: str, max_owner_bytes: int | None) -> Upload:
        """Begin an upload; OSError if the disk is full."""
        return Upload(self, self._folder, owner, max_owner_bytes)

    def reserve(self, owner: str, num_bytes: int, max_owner_bytes: int | None) -> None:
        """Count bytes of a key; ApiError 413 if they are too many."""
        for taken, most, whose in (
            (self._taken[owner], max_owner_bytes, "the files of this key"),
            (self._taken.total(), self._max_bytes, "all files"),
        ):
            if num_bytes > 0 and most is not None and taken + num_bytes > most:
                message = f"{whose} may have {most} bytes, this one would exceed them: delete others, or wait"
                raise ApiError(413, f"{message} until some expire", code="file_quota_exceeded")
        self._taken[owner] += num_bytes
        if not self._taken[owner]:
            del self._taken[owner]

    def add(self, file: StoredFile) -> None:
        """Add a file that has been reserved and written."""
        self._files[file.id] = file

    async def delete(self, *files: StoredFile) -> None:
        """Remove files. Who reads one has it to its end."""
        for file in files:
            if self._files.pop(file.id, None):
                self.reserve(file.owner, -file.num_bytes - _EXTRA_BYTES, None)
        await self.in_thread(lambda: [_remove(self._folder, file.id) for file in files])

    async def remove_expired(self) -> None:
        """Remove the files whose time is over."""
        now = time.time()
        if expired := [file for file in self._files.values() if file.expires_at <= now]:
            await self.delete(*expired)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run work on the disk; once it has begun, or been queued, it is done even if the caller is cancelled."""
        return await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._threads, work))


class Upload:
    """A file that is being written. Any thread may `write` and `finish`; `end` waits until they have ended.

    Args:
        store: Where it will be.
        folder: The store's.
        owner: The key's name.
        max_owner_bytes: Of all files of this key; None is no limit.
    """

    def __init__(self, store: FileStore, folder: Path, owner: str, max_owner_bytes: int | None) -> None:
        self.id = PREFIX + secrets.token_hex(16)
        self.num_bytes = 0
        self._store = store
        self._folder = folder
        self._owner = owner
        self._max_owner_bytes = max_owner_bytes
        self._reserved_bytes = 0
        self._digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self._lock = threading.Lock()
        self.reserve(_EXTRA_BYTES)
        try:
            self._file = _create(folder / self.id)
        except OSError:
            self._release()
            raise

    def reserve(self, num_bytes: int) -> None:
        """Count bytes that will come, in the event loop's thread; ApiError 413 if they are too many."""
        self._store.reserve(self._owner, num_bytes, self._max_owner_bytes)
        self._reserved_bytes += num_bytes

    def check_room(self, num_bytes: int) -> None:
        """Raise ApiError 413 if so many bytes would be too many now. A claim alone takes no room from others."""
        self.reserve(num_bytes)
        self.reserve(-num_bytes)

    def write(self, data: memoryview) -> None:
        """Write a part of the content.

        Raises:
            ApiError: The file is too large (413).
            OSError: The disk is full.
        """
        with self._lock:
            self.num_bytes += len(data)
            if self.num_bytes > self._store.max_file_bytes:
                raise too_large(self._store.max_file_bytes)
            self._digest.update(data)
            _write(self._file, data)

    def finish(self, *, filename: str, purpose: str, seconds: int) -> StoredFile:
        """Write the rest; return the file, which `keep` makes known. OSError if the disk is full."""
        now = int(time.time())
        digest = self._digest.hexdigest()
        file = StoredFile(self.id, self._owner, filename, purpose, self.num_bytes, digest, now, now + seconds)
        with self._lock:
            os.fsync(self._file.fileno())
            with _create(self._folder / f"{self.id}.json") as about:
                _write(about, memoryview(json.dumps(asdict(file)).encode()))
        return file

    def keep(self, file: StoredFile) -> None:
        """Make the file known, in the event loop's thread."""
        self._store.add(file)
        self._store.reserve(self._owner, file.num_bytes + _EXTRA_BYTES - self._reserved_bytes, None)
        self._reserved_bytes = 0

    async def end(self, *, is_kept: bool) -> None:
        """Close the file; remove what was written, unless it is kept."""
        try:
            await self._store.in_thread(lambda: self._end(is_kept=is_kept))
        finally:
            self._release()

    def _end(self, *, is_kept: bool) -> None:
        with self._lock:
            with suppress(OSError):
                self._file.close()
            if not is_kept:
                _remove(self._folder, self.id)

    def _release(self) -> None:
        self._store.reserve(self._owner, -self._reserved_bytes, None)
        self._reserved_bytes = 0


def too_large(max_bytes: int) -> ApiError:
    """Return the error for a file that is too large."""
    return ApiError(
        413, f"file: has more than {max_bytes} bytes: send a smaller one", param="file", code="file_too_large"
    )


def _load(folder: Path) -> dict[str, StoredFile]:
    """Return the files that are whole, the oldest first; remove the remains of others."""
    files: list[StoredFile] = []
    for name in {found[1] for path in folder.iterdir() if (found := _NAME.fullmatch(path.name))}:
        try:
            file = StoredFile(**json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
            if file.id == name and (folder / name).stat().st_size == file.num_bytes and file.expires_at > time.time():
                files.append(file)
                continue
        except (OSError, ValueError, TypeError):
            log.info("%s: removed the remains of an upload", folder / name)
        _remove(folder, name)
    return {file.id: file for file in sorted(files, key=lambda file: file.created_at)}


def _remove(folder: Path, name: str) -> None:
    for path in (folder / f"{name}.json", folder / name):
        try:
            path.unlink(missing_ok=True)
        except OSError as exc:
            log.error("%s: cannot be removed: %s", path, exc)


def _create(path: Path) -> io.FileIO:
    return io.FileIO(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")


def _write(file: io.FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


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
