"""Where the records go: a file that a later run resumes, or a stream."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TextIO

from ..errors import OptionError, StateError
from .lines import Line

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Record = Mapping[str, Any]


class OutputFile:
    """A file of records that survives a kill of its writer; used in a `with` block.

    A record is one write at the end of the file, so a killed process leaves whole records and at most one incomplete
    one. The next run removes that one, and the records of failures that may pass (`"retry": true`). It is locked, so a
    second process is refused; on Windows it is not.

    Args:
        path: The file; it need not exist.
        ordered: Whether `finish` sorts the records by the number of their line.
    """

    def __init__(self, path: Path, *, ordered: bool = False) -> None:
        self._path = path
        self._ordered = ordered
        self._file = self._open()
        self._digests: dict[int, str] = {}
        try:
            self._resume()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # `write` has reported what could not be written; closing tries again.
        with suppress(OSError):
            self._file.close()

    @property
    def num_known(self) -> int:
        """Lines that have a record."""
        return len(self._digests)

    def knows(self, line: Line) -> bool:
        """Whether the line has a record."""
        digest = self._digests.get(line.number)
        if digest is not None and digest != line.digest:
            raise OptionError(
                f"{self._path} answers another input: line {line.number} has changed; "
                "name another output file, or remove this one"
            )
        return digest is not None

    def write(self, record: Record) -> None:
        """Add the record of one line; a kill of this process after that does not lose it."""
        try:
            self._file.write(_dump(record))
            self._file.flush()
        except OSError as exc:
            raise OptionError(f"{self._path} cannot be written ({exc.strerror}): the same command resumes") from exc
        self._digests[record["line"]] = record["digest"]

    def finish(self) -> None:
        """Sort the records, if `ordered`."""
        if self._ordered:
            self._replace(sorted(self._records(), key=lambda record: record["line"]))

    def _open(self) -> TextIO:
        while True:
            try:
                file = self._path.open("a+", encoding="utf-8", newline="\n")
            except OSError as exc:
                raise OptionError(f"{self._path} cannot be written ({exc.strerror}): name another file") from exc
            if self._lock(file):
                return file
            file.close()

    def _lock(self, file: TextIO) -> bool:
        """Lock the file; return whether its name still belongs to it."""
        try:
            _flock(file)
        except BlockingIOError as exc:
            file.close()
            raise StateError(f"{self._path} is being written by another process: wait for it to end") from exc
        with suppress(FileNotFoundError):
            return os.fstat(file.fileno()).st_ino == self._path.stat().st_ino
        return False

    def _resume(self) -> None:
        self._file.seek(0)
        num_lines = sum(1 for _ in self._file)
        self._digests = {record["line"]: record["digest"] for record in self._kept()}
        if len(self._digests) < num_lines:
            self._replace(self._kept())

    def _kept(self) -> Iterator[dict[str, Any]]:
        return (record for record in self._records() if not record.get("retry"))

    def _records(self) -> Iterator[dict[str, Any]]:
        self._file.seek(0)
        for number, text in enumerate(self._file, start=1):
            if not text.endswith("\n"):
                return  # incomplete: its writer was killed
            try:
                record = json.loads(text)
                _ = record["line"], record["digest"]
            except (ValueError, KeyError, TypeError) as exc:
                raise OptionError(
                    f"{self._path}, line {number}: not a record of a batch ({exc}): name another output file"
                ) from exc
            yield record

    def _replace(self, records: Iterable[Record]) -> None:
        """Replace the file by one with these records, atomically."""
        path = self._path.with_name(f"{self._path.name}.new")
        with path.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(map(_dump, records))
            file.flush()
            os.fsync(file.fileno())
        if fcntl is None:
            self._file.close()  # Windows replaces no open file
            path.replace(self._path)
            self._file = self._open()
            return
        replacement = path.open("a+", encoding="utf-8", newline="\n")
        _flock(replacement)
        path.replace(self._path)
        self._file.close()
        self._file = replacement


class OutputStream:
    """Records to a stream such as stdout; `ordered` holds each back until those of all earlier lines are written."""

    num_known = 0

    def __init__(self, file: TextIO, *, ordered: bool = False) -> None:
        self._file = file
        self._ordered = ordered
        self._waiting_lines: list[int] = []
        self._held: dict[int, Record] = {}

    def knows(self, line: Line) -> bool:
        """Note that the line comes; it always has to be asked."""
        self._waiting_lines.append(line.number)
        return False

    def write(self, record: Record) -> None:
        """Write the record and those that waited for it, or hold it back."""
        if not self._ordered:
            self._file.write(_dump(record))
        else:
            self._held[record["line"]] = record
            while self._waiting_lines and self._waiting_lines[0] in self._held:
                self._file.write(_dump(self._held.pop(self._waiting_lines.pop(0))))
        self._file.flush()

    def finish(self) -> None:
        """Do nothing: all records are written."""


def _flock(file: TextIO) -> None:
    """Lock the file where the system can. Raises BlockingIOError if another process has locked it."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _dump(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False) + "\n"
