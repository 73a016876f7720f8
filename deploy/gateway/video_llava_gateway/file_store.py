"""Files that callers have uploaded: whose they are, their quotas and their lifetime."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

from .errors import ApiError
from .folder import PREFIX, Folder, StoredFile, write

T = TypeVar("T")

DIGEST_BYTES = 16
"""Of a digest of content, by BLAKE2b."""

# Each file counts this much more: a million empty ones need memory and inodes too.
_EXTRA_BYTES = 64 * 1024
_NUM_THREADS = 4


class FileStore:
    """The files in a folder, which survive a restart. All but `Upload` is for the event loop's thread.

    Args:
        folder: Made if there is none. For one gateway at a time.
        max_bytes: Of all files.
        max_file_bytes: Of one.

    Raises:
        OSError: The folder cannot be used.
    """

    def __init__(self, folder: Path, *, max_bytes: int, max_file_bytes: int) -> None:
        self.max_file_bytes = max_file_bytes
        self._max_bytes = max_bytes
        self._taken: Counter[str] = Counter()
        self._folder = Folder(folder)
        self._files = {file.id: file for file in self._folder.load()}
        for file in self._files.values():
            self._taken[file.owner] += file.num_bytes + _EXTRA_BYTES
        self._threads = ThreadPoolExecutor(_NUM_THREADS, "video-llava-files")

    def close(self) -> None:
        """Let another process use the folder."""
        self._folder.close()

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
        return self._folder.path(file.id)

    def open(self, file: StoredFile) -> BinaryIO:
        """Open a file, as `Folder.open`."""
        return self._folder.open(file)

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
        await self.in_thread(lambda: [self._folder.remove(file.id) for file in files])

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

    def __init__(self, store: FileStore, folder: Folder, owner: str, max_owner_bytes: int | None) -> None:
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
            self._file = folder.create(self.id)
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
            write(self._file, data)

    def finish(self, *, filename: str, purpose: str, seconds: int) -> StoredFile:
        """Write the rest; return the file, which `keep` makes known. OSError if the disk is full."""
        now = int(time.time())
        digest = self._digest.hexdigest()
        file = StoredFile(self.id, self._owner, filename, purpose, self.num_bytes, digest, now, now + seconds)
        with self._lock:
            os.fsync(self._file.fileno())
            self._folder.describe(file)
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
                self._folder.remove(self.id)

    def _release(self) -> None:
        self._store.reserve(self._owner, -self._reserved_bytes, None)
        self._reserved_bytes = 0


def too_large(max_bytes: int) -> ApiError:
    """Return the error for a file that is too large."""
    return ApiError(
        413, f"file: has more than {max_bytes} bytes: send a smaller one", param="file", code="file_too_large"
    )
