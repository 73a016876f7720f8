"""Records to a stream such as stdout."""

from collections.abc import Iterable
from typing import BinaryIO, Self

from .records import dump
from .rows import Record, Row


class OutputStream:
    """Records to a stream such as stdout; `ordered` holds each back until those of all earlier lines are written.

    Leaving the `with` block writes what is still held back.
    """

    num_known = 0

    def __init__(self, file: BinaryIO, *, ordered: bool = False) -> None:
        self._file = file
        self._ordered = ordered
        self._num_written = 0
        self._held: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._write(self._held.pop(index) for index in sorted(self._held))

    def knows(self, line: Row) -> bool:  # noqa: ARG002
        """Return False: each line has to be asked."""
        return False

    def check_num_known(self, number: int) -> None:
        """Do nothing: no line has a record."""

    def write(self, line: Row, record: Record) -> None:
        """Write the record and those that waited for it, or hold it back."""
        if not self._ordered:
            self._write([dump(line, record)])
            return
        self._held[line.index] = dump(line, record)
        while self._num_written in self._held:
            self._write([self._held.pop(self._num_written)])
            self._num_written += 1

    def finish(self) -> None:
        """Do nothing: all records are written."""

    def _write(self, records: Iterable[bytes]) -> None:
        self._file.writelines(records)
        self._file.flush()
