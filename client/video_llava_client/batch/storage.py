"""Files at any address: of this machine, `s3://`, `gs://`, `abfs://`, `hf://`, and what else fsspec knows.

pyarrow reads and writes the object stores itself; fsspec stands in for all other schemes.
"""

from __future__ import annotations

import io
import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ..errors import OptionError
from ..sources import name_of, scheme_of

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_NATIVE = ("file", "s3", "gs", "gcs", "abfs", "abfss", "hf")  # of pyarrow.fs.FileSystem.from_uri
_SAME = {"s3a": "s3", "az": "abfs"}
_BUFFER_BYTES = 1 << 20


class StorageError(OSError):
    """A file cannot be read from where it is: trying again may help."""


@dataclass(frozen=True)
class Address:
    """A file or a folder.

    Attributes:
        system: How it is reached.
        path: Where it is there, without a slash at the end.
    """

    system: FileSystem
    path: str

    @classmethod
    def of(cls, text: str) -> Address:
        """Return what a path or an address stands for."""
        if not scheme_of(text):
            return cls(_checked().LocalFileSystem(), Path(text).expanduser().absolute().as_posix())
        folder, _, name = text.rstrip("/").rpartition("/")
        if folder.endswith("/") or "?" in text:  # a bucket, or with options
            folder, name = text, ""
        system, path = _system(folder)
        return cls(system, f"{path.rstrip('/')}/{name}".rstrip("/"))

    def __truediv__(self, name: str) -> Address:
        return Address(self.system, f"{self.path.rstrip('/')}/{name}")

    def name_in(self, folder: Address) -> str:
        """Return its path from `folder` on; its last part if it is not in there."""
        prefix = f"{folder.path.rstrip('/')}/"
        return self.path[len(prefix) :] if self.path.startswith(prefix) else self.path.rpartition("/")[2]

    def is_folder(self) -> bool:
        """Whether files are below."""
        return self._info().type.name == "Directory"

    def exists(self) -> bool:
        """Whether this is a file or a folder."""
        return self._info().type.name != "NotFound"

    def _info(self) -> Any:
        with _failures(self.path):
            return self.system.get_file_info(self.path)

    def files(self) -> list[Address]:
        """Return all files below, by name, without hidden ones; an empty list if this is no folder."""
        from pyarrow.fs import FileSelector

        with _failures(self.path):
            found = self.system.get_file_info(FileSelector(self.path, recursive=True, allow_not_found=True))
        files = (Address(self.system, info.path) for info in found if info.is_file)
        visible = (file for file in files if not re.search(r"(^|/)[._]", file.name_in(self)))
        return sorted(visible, key=lambda file: file.path)

    def open(self) -> RemoteFile:
        """Return a seekable file that opens when it is first read."""
        return RemoteFile(self)

    def read(self) -> bytes:
        """Return the whole file."""
        with _failures(self.path), self.system.open_input_file(self.path) as file:
            return file.read()

    def write(self, chunks: Iterable[bytes]) -> None:
        """Write a file that is there whole or not at all.

        Raises:
            OSError: It cannot be written.
        """
        is_local = self.system.type_name == "local"
        path = f"{self.path}.{uuid.uuid4().hex}.tmp" if is_local else self.path
        try:
            if is_local:
                self.system.create_dir(self.path.rpartition("/")[0], recursive=True)
            with self.system.open_output_stream(path) as file:
                for chunk in chunks:
                    file.write(chunk)
            if is_local:
                _sync(path)
                self.system.move(path, self.path)
        except Exception as exc:
            if is_local:
                with suppress(OSError):
                    self.system.delete_file(path)
            raise OSError(f"{self.path} cannot be written ({_reason(exc)})") from exc


class RemoteFile(io.BufferedReader):
    """A seekable file that opens when it is first read. Errors of its storage are `StorageError`."""

    def __init__(self, address: Address) -> None:
        super().__init__(_Raw(address), _BUFFER_BYTES)

    @property
    def name(self) -> str:
        """The file's path, for messages."""
        return self.raw.address.path  # pyright: ignore[reportAttributeAccessIssue]


class _Raw(io.RawIOBase):
    def __init__(self, address: Address) -> None:
        self.address = address
        self._file: Any = None

    def _opened(self) -> Any:
        if self._file is None:
            self._file = self.address.system.open_input_file(self.address.path)
        return self._file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _failures(self.address.path):
            return self._opened().readinto(buffer)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        with _failures(self.address.path):
            return self._opened().seek(offset, whence)

    def tell(self) -> int:
        return 0 if self._file is None else self._file.tell()

    def close(self) -> None:
        if self._file is not None and not self.closed:
            self._file.close()
        super().close()


def storage_failure(error: BaseException | None) -> StorageError | None:
    """Return the `StorageError` that the error is or comes from."""
    while error is not None and not isinstance(error, StorageError):
        error = error.__cause__ or error.__context__
    return error


@contextmanager
def _failures(path: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as exc:  # each file system has errors of its own
        raise StorageError(f"{path}: {_reason(exc)}") from exc


def _reason(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _sync(path: str) -> None:
    """Wait until the disk has the file."""
    file = os.open(path, os.O_RDWR)
    try:
        os.fsync(file)
    finally:
        os.close(file)


@cache
def _checked() -> Any:
    try:
        import pyarrow.fs
    except ImportError as exc:
        raise OptionError(
            f"data sets need {(exc.name or 'pyarrow').partition('.')[0]}: install this package with its extra [data]"
        ) from exc
    return pyarrow.fs


@lru_cache(maxsize=64)
def _system(address: str) -> tuple[FileSystem, str]:
    """Return the file system of an address, which asks a bucket where it is, and the path there."""
    scheme, _, rest = address.partition(":")
    scheme = _SAME.get(scheme.lower(), scheme.lower())
    try:
        if scheme not in _NATIVE:
            return _checked().FileSystem.from_uri(f"fsspec+{scheme}:{rest}")
        path, question, options = rest.partition("?")
        return _checked().FileSystem.from_uri(f"{scheme}:{quote(path, safe='/:@')}{question}{options}")
    except OptionError:
        raise
    except Exception as exc:
        raise OptionError(f"{name_of(address)} cannot be used ({_reason(exc)})") from exc
