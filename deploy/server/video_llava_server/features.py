"""Features in shared memory: the store that keeps them, references to them, and how others open them."""

import errno
import mmap
import os
import struct
import weakref
from collections import deque
from functools import cached_property
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from .errors import InvalidArgument, Unavailable
from .runtime_folder import Window
from .seals import seal, unseal

MEGABYTES_VARIABLE = "VIDEO_LLAVA_FEATURE_STORE_MEGABYTES"
"""How much the store keeps."""
DEFAULT_MEGABYTES = 2048
_PURPOSE = "features"
_LAYOUT = struct.Struct("<IIII?d32s")
# So many stay whatever they take: their requests have yet to reach the language model.
_MIN_ENTRIES = 16
# Each is an open file.
_MAX_ENTRIES = 512
# What is beyond it could go before a request that counts on it arrives.
_STAYING_SHARE = 7 / 8
_BLOCK_ROWS = 64


class Reference(NamedTuple):
    """Where features lie."""

    process: int
    file: int
    """a descriptor of that process"""
    rows: int
    hidden: int
    is_half: bool
    """float16, else float32"""
    largest: float
    """the largest magnitude; infinite or NaN where a value is"""
    digest: bytes
    """BLAKE3 of the content"""

    def seal(self, key: bytes) -> str:
        """Return it as text that nobody else can make; `key` is the runtime folder's."""
        return seal(key, _PURPOSE, _LAYOUT.pack(*self))

    @classmethod
    def unseal(cls, name: str, text: str, key: bytes) -> "Reference | None":
        """Read what `seal` made; None where it is empty: there are no media. Raises InvalidArgument, naming `name`."""
        if not text:
            return None
        body = unseal(key, _PURPOSE, text)
        if body is None or len(body) != _LAYOUT.size:
            raise InvalidArgument(f"{name} is no reference of this server's: take it from {name}, or call video_llava")
        return cls(*_LAYOUT.unpack(body))

    @property
    def dtype(self) -> np.dtype:
        """Of the numbers."""
        return np.dtype(np.float16 if self.is_half else np.float32)


class Features:
    """Features that cannot go as long as this object lives, mapped when they are read first."""

    def __init__(self, reference: Reference, file: int) -> None:
        self.reference = reference
        self._file = file
        weakref.finalize(self, os.close, file)

    @classmethod
    def open(cls, reference: Reference) -> "Features":
        """Open what `reference` names. Raises Unavailable where it is gone."""
        num_bytes = reference.rows * reference.hidden * reference.dtype.itemsize
        try:
            file = os.open(f"/proc/{reference.process}/fd/{reference.file}", os.O_RDONLY | os.O_NONBLOCK)
            features = cls(reference, file)
            # By now the number may be another file's, or a pipe's or a socket's.
            if os.pread(file, len(reference.digest), num_bytes) == reference.digest:
                return features
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENXIO, errno.ESPIPE):
                raise
        raise Unavailable("the features of this request's media were dropped meanwhile: try again", reason="dropped")

    @property
    def here(self) -> Reference:
        """The same by this process, which has it open."""
        return self.reference._replace(process=os.getpid(), file=self._file)

    @cached_property
    def array(self) -> np.ndarray:
        """The numbers, shape = (rows, hidden)."""
        reference = self.reference
        memory = mmap.mmap(self._file, 0, access=mmap.ACCESS_COPY)
        values = np.frombuffer(memory, reference.dtype, reference.rows * reference.hidden)
        return values.reshape(reference.rows, reference.hidden)


class _Entry(NamedTuple):
    file: int
    num_bytes: int


class FeatureStore:
    """Features in anonymous files of this process: first in, first out. For one thread."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: deque[_Entry] = deque()
        self._next = self._first_staying = 0
        self.num_bytes = self._staying_bytes = 0
        weakref.finalize(self, _close_all, self._entries)

    @property
    def window(self) -> Window:
        """Which entries are there and will not go soon, by their numbers."""
        return Window(self._first_staying, self._next)

    def put(self, features: np.ndarray) -> Reference:
        """Keep `features`, float16 or float32 [rows, hidden]."""
        features = np.ascontiguousarray(features)
        digest = blake3(features.data.cast("B")).digest()
        file = os.memfd_create("features")
        _write(file, features, digest)
        self._entries.append(_Entry(file, features.nbytes))
        self.num_bytes += features.nbytes
        self._staying_bytes += features.nbytes
        self._next += 1
        self._drop()
        rows, hidden = features.shape
        return Reference(os.getpid(), file, rows, hidden, features.dtype == np.float16, _largest(features), digest)

    def _drop(self) -> None:
        while self._is_too_much(self._staying_bytes, self._next - self._first_staying, share=_STAYING_SHARE):
            self._staying_bytes -= self._entries[self._first_staying - self._next].num_bytes
            self._first_staying += 1
        while self._is_too_much(self.num_bytes, len(self._entries), share=1.0):
            oldest = self._entries.popleft()
            os.close(oldest.file)
            self.num_bytes -= oldest.num_bytes

    def _is_too_much(self, num_bytes: int, count: int, *, share: float) -> bool:
        return count > share * _MIN_ENTRIES and (num_bytes > share * self._max_bytes or count > share * _MAX_ENTRIES)


def _close_all(entries: deque[_Entry]) -> None:
    for entry in entries:
        os.close(entry.file)


def _write(file: int, features: np.ndarray, digest: bytes) -> None:
    """The digest stands at the end, for `Features.open` to see that it is the right file."""
    for content in (features.data.cast("B"), memoryview(digest)):
        while content:
            content = content[os.write(file, content) :]


def _largest(features: np.ndarray) -> float:
    """The largest magnitude; infinite or NaN if any value is. By the bits, which are in the order of magnitudes: as
    numbers it would take several times as long."""
    bits = features.view(np.uint16 if features.dtype == np.float16 else np.uint32)
    magnitude = bits.dtype.type(np.iinfo(bits.dtype).max >> 1)
    blocks = (bits[start : start + _BLOCK_ROWS] & magnitude for start in range(0, len(bits), _BLOCK_ROWS))
    largest = max((block.max() for block in blocks if block.size), default=bits.dtype.type(0))
    return float(largest.view(features.dtype))
