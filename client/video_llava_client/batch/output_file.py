"""Records in a file that a later run resumes."""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_IMODE
from typing import Any, BinaryIO, Self

from ..errors import OptionError, StateError
from .records import BEGINNING, dump
from .rows import Record, Row

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the record of a line is in the file, and the digest of that line."""

    digest: str
    start: int
    num_bytes: int


class OutputFile:
    """A file of records that survives a kill of its writer; used in a `with` block.

    A record counts when the system has all its bytes: a kill of this process does not lose it. `finish` waits until
    the disk has them. The next run removes a record that was not written to its end, and those of failures that may
    pass (`"retry": true`). The file is locked, so a second process is refused; on Windows it is not.

    Args:
        path: The file; it need not exist. A symbolic link stays one.
        ordered: Whether `finish` sorts the records by the number of their line.
        options: How all its lines are answered. They are kept beside the file, and a later run with others is refused.
    """

    def __init__(self, path: Path, *, ordered: bool = False, options: Record | None = None) -> None:
        self.path: Path = Path(os.path.realpath(path))
        self._ordered = ordered
        self._places: dict[int, _Place] = {}
        self._num_bytes = 0
        self._file = self._open()
        try:
            self._resume()
            if options is not None:
                self._keep(options)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def num_known(self) -> int:
        """Lines that have a record."""
        return len(self._places)

    def knows(self, line: Row) -> bool:
        """Whether the line has a record."""
        place = self._places.get(line.number)
        if place is not None and place.digest != line.digest:
            raise self._other_input(f"line {line.number} has changed")
        return place is not None

    def check_num_known(self, number: int) -> None:
        """Refuse an input of which only `number` lines have a record, if there are more records."""
        if number < self.num_known:
            raise self._other_input(f"{self.num_known - number} of its records are of lines that are gone")

    def write(self, line: Row, record: Record) -> None:
        """Add the record of one line.

        Raises:
            OSError: It cannot be written; the file has whole records only.
        """
        data = dump(line, record)
        try:
            _write_all(self._file, data)
            self._check_path()
        except OSError as exc:
            with suppress(OSError):
                self._file.truncate(self._num_bytes)
            raise self._failed(exc) from exc
        self._places[line.number] = _Place(line.digest, self._num_bytes, len(data))
        self._num_bytes += len(data)

    def finish(self) -> None:
        """Wait until the disk has all records; sort them before, if `ordered`."""
        numbers = sorted(self._places)
        if self._ordered and numbers != list(self._places):
            self._replace(numbers)
            return
        try:
            self._check_path()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise self._failed(exc) from exc

    def _open(self) -> BinaryIO:
        while True:
            try:
                file = self.path.open("ab+", buffering=0)
            except OSError as exc:
                raise OptionError(f"{self.path} cannot be written ({exc.strerror}): name another file") from exc
            with ExitStack() as failed:
                failed.enter_context(file)
                self._lock(file)
                if self._is_named(file):
                    failed.pop_all()
                    return file

    def _lock(self, file: BinaryIO) -> None:
        try:
            _flock(file)
        except BlockingIOError as exc:
            raise StateError(f"{self.path} is being written by another process: wait for it to end") from exc

    def _is_named(self, file: BinaryIO) -> bool:
        """Whether the name still belongs to the open file."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        return False

    def _check_path(self) -> None:
        if not self._is_named(self._file):
            raise FileNotFoundError(None, "it was removed or replaced")

    def _resume(self) -> None:
        """Read the records; remove those that do not count."""
        is_clean = True
        for number, data in enumerate(self._stored(), start=1):
            if self._is_torn(data):
                break
            record = self._parse(number, data)
            if record.get("retry") or record["line"] in self._places:
                is_clean = False
            else:
                self._places[record["line"]] = _Place(record["digest"], self._num_bytes, len(data))
            self._num_bytes += len(data)
        if is_clean:
            self._file.truncate(self._num_bytes)
        else:
            self._replace(self._places)

    def _stored(self) -> Iterator[bytes]:
        with open(self._file.fileno(), "rb", closefd=False) as file:
            file.seek(0)
            yield from file

    def _is_torn(self, data: bytes) -> bool:
        """Whether this is the beginning of a record; a system that lost power may leave zeros after it."""
        data = data.rstrip(b"\0")
        return not data.endswith(b"\n") and (data.startswith(BEGINNING) or BEGINNING.startswith(data))

    def _parse(self, number: int, data: bytes) -> dict[str, Any]:
        try:
            record = json.loads(data)
            _ = record["line"] + 0, record["digest"] + ""
        except (ValueError, KeyError, TypeError, RecursionError) as exc:
            raise OptionError(
                f"{self.path}, line {number}: not a record of a batch ({exc}): name another output file"
            ) from exc
        return record

    def _keep(self, options: Record) -> None:
        """Write the options beside the file, or refuse others than those of its records."""
        path = self.path.with_name(f"{self.path.name}.options.json")
        data = json.dumps(options)
        given, kept = json.loads(data), None
        with suppress(FileNotFoundError, ValueError):
            kept = json.loads(path.read_bytes())
        if not self._places or not isinstance(kept, dict):
            self._write_whole(path, [data.encode()])
        elif kept != given:
            changed = sorted(name for name in {*kept, *given} if kept.get(name) != given.get(name))
            changes = ", ".join(f"{name} {kept.get(name)!r:.40} -> {given.get(name)!r:.40}" for name in changed)
            raise OptionError(
                f"{self.path} has records with other options ({changes}): give the same ones, name another output "
                f"file, or remove {path.name} to go on with these"
            )

    def _replace(self, numbers: Iterable[int]) -> None:
        """Replace the file by one with the records of these lines, in this order."""
        places = {number: self._places[number] for number in numbers}
        with open(self._file.fileno(), "rb", closefd=False) as file:
            self._write_whole(self.path, (_read(file, place) for place in places.values()))
        self._file.close()
        self._file, self._num_bytes = self._open(), 0
        for number, place in places.items():
            places[number] = _Place(place.digest, self._num_bytes, place.num_bytes)
            self._num_bytes += place.num_bytes
        self._places = places

    def _write_whole(self, path: Path, parts: Iterable[bytes]) -> None:
        """Write a file that has its old content or all of the new, with this file's mode and owner."""
        new, status = path.with_name(f"{path.name}.new"), os.fstat(self._file.fileno())
        try:
            with open(new, "wb", opener=partial(os.open, mode=0o600)) as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            if fcntl is None and path == self.path:
                self._file.close()  # Windows replaces no open file
            with suppress(PermissionError, AttributeError):  # of another user; on Windows
                os.chown(new, status.st_uid, status.st_gid)
            new.chmod(S_IMODE(status.st_mode))
            new.replace(path)
        except OSError as exc:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise self._failed(exc) from exc

    def _failed(self, error: OSError) -> OSError:
        return OSError(f"{self.path} cannot be written ({error.strerror})")

    def _other_input(self, what: str) -> OptionError:
        return OptionError(f"{self.path} answers another input: {what}; name another output file, or remove this one")


def _flock(file: BinaryIO) -> None:
    """Lock the file where the system can. Raises BlockingIOError if another process has locked it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _write_all(file: BinaryIO, data: bytes) -> None:
    while data:  # a disk that is nearly full takes a part
        data = data[file.write(data) :]


def _read(file: BinaryIO, place: _Place) -> bytes:
    file.seek(place.start)
    return file.read(place.num_bytes)
