"""The output: a record a line, which is also the memory of what need not be asked again."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from ..errors import OptionError, StateError
from .lines import Line

Record = Mapping[str, Any]


class Output(Protocol):
    """Where records go."""

    def knows(self, line: Line) -> bool:
        """Whether the line need not be asked."""
        ...

    def write(self, record: Record) -> None:
        """Add the record of one line."""
        ...

    def finish(self) -> None:
        """Make the order right, if order was wanted."""
        ...


class Journal:
    """An output file that survives the death of its writer; used in a `with` block.

    A record is one write at the file's end, so a killed process leaves whole records and at most one torn one, which
    the next run drops. So it does with records of failures that may not happen again (`"retry": true`).

    Args:
        path: The file; it need not exist.
        ordered: Whether `finish` sorts the records by the number of their line.

    Raises:
        OptionError: The file cannot be written, or is something else.
        StateError: Another process writes it.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What could not be written has been told; Python would try again.
        with suppress(OSError):
            self._file.close()

    @property
    def num_known(self) -> int:
        """How many lines have their record."""
        return len(self._digests)

    def knows(self, line: Line) -> bool:
        """Whether the line has its record.

        Raises:
            OptionError: It has another line's: the input has changed.
        """
        digest = self._digests.get(line.number)
        if digest is not None and digest != line.digest:
            raise OptionError(
                f"{self._path} answers another input: line {line.number} has changed; "
                "name another output file, or remove this one"
            )
        return digest is not None

    def write(self, record: Record) -> None:
        """Add the record of one line; when this returns, the death of this process does not lose it.

        Raises:
            OptionError: The disk is full, or the like.
        """
        try:
            self._file.write(dump(record))
            self._file.flush()
        except OSError as exc:
            raise OptionError(f"{self._path} cannot be written ({exc.strerror}): the same command goes on") from exc
        self._digests[record["line"]] = record["digest"]

    def finish(self) -> None:
        """Sort the records, if they are to be."""
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
        """Lock the file; return whether it is still the one of that name."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
                return  # torn: its writer was killed
            try:
                record = json.loads(text)
                _ = record["line"], record["digest"]
            except (ValueError, KeyError, TypeError) as exc:
                raise OptionError(
                    f"{self._path}, line {number}: no record of a batch ({exc}): name another output file"
                ) from exc
            yield record

    def _replace(self, records: Iterable[Record]) -> None:
        """Put a file with these records in this one's place, all at once."""
        beside = self._path.with_name(f"{self._path.name}.new")
        with beside.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(map(dump, records))
            file.flush()
            os.fsync(file.fileno())
        replacement = beside.open("a+", encoding="utf-8", newline="\n")
        fcntl.flock(replacement, fcntl.LOCK_EX | fcntl.LOCK_NB)
        beside.replace(self._path)
        self._file.close()
        self._file = replacement


class Printer:
    """Records to a stream that cannot be read again, such as stdout; `ordered` holds each back until its turn."""

    def __init__(self, file: TextIO, *, ordered: bool = False) -> None:
        self._file = file
        self._ordered = ordered
        self._turns: list[int] = []
        self._held: dict[int, Record] = {}

    def knows(self, line: Line) -> bool:
        """Note that the line comes; it always has to be asked."""
        if self._ordered:
            self._turns.append(line.number)
        return False

    def write(self, record: Record) -> None:
        """Write the record, and those that waited for it; or hold it back."""
        self._held[record["line"]] = record
        while self._held and (not self._ordered or self._turns[0] in self._held):
            number = self._turns.pop(0) if self._ordered else next(iter(self._held))
            self._file.write(dump(self._held.pop(number)))
        self._file.flush()

    def finish(self) -> None:
        """Nothing is left to do."""


def dump(record: Record) -> str:
    """Return a record as one line."""
    return json.dumps(record, ensure_ascii=False) + "\n"
