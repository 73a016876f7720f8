"""A file of JSON lines that holds nobody up: a thread writes it; lines that it cannot write are dropped and counted.

FILE is rotated by size to FILE.1, FILE.2 and so on; the oldest is deleted. With `chain` each line names the SHA-256 of
the line before it, over rotations and restarts, so that a changed, added or removed line shows.
"""

import errno
import hashlib
import json
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import count, pairwise, takewhile
from pathlib import Path
from typing import NamedTuple, Self

VARIABLE = "VIDEO_LLAVA_REQUEST_LOG"
FORM = "DIR[,texts][,chain][,megabytes=64][,files=8]"
_SETTING = re.compile(
    r"(?P<folder>[^,]+)(?P<texts>,texts)?(?P<chain>,chain)?"
    r"(,megabytes=(?P<megabytes>\d+(\.\d+)?))?(,files=(?P<files>[2-9]|[1-9]\d+))?"
)
_MAX_WAITING = 1024
_SILENT_SECONDS = 60.0


class ChainError(Exception):
    """A line does not follow the line before it. The text names the file and the line."""


class LogOptions(NamedTuple):
    """Where and what to log."""

    folder: Path
    texts: bool
    """prompts, answers and parameters that hold text; otherwise their digests"""
    chain: bool
    """each line names the hash of the line before"""
    max_bytes: int
    """of a file, then it is rotated"""
    num_files: int
    """how many each model keeps"""

    @classmethod
    def parse(cls, setting: str) -> Self:
        """Read what the variable or the flag says. Raises ValueError."""
        if not (found := _SETTING.fullmatch(setting)):
            raise ValueError(f"the request log is {setting!r}, expected {FORM} in this order, with 2 files or more")
        switches = bool(found["texts"]), bool(found["chain"])
        max_bytes = int(float(found["megabytes"] or 64) * 1e6)
        return cls(Path(found["folder"]), *switches, max_bytes, int(found["files"] or 8))


class LogFile:
    """Appends lines to `path`, which only this user may read. One thread may `put`.

    `report` is told when a line cannot be written, and not again before a minute without such a line.
    """

    def __init__(self, path: Path, options: LogOptions, report: Callable[[str], None]) -> None:
        self._files = [_numbered(path, number) for number in range(options.num_files)]
        self._options, self._report = options, report
        self._queue: queue.Queue[Mapping[str, object] | None] = queue.Queue(_MAX_WAITING)
        self._num_overflowed = self._num_failed = self._num_told = 0
        self._previous: str | None = None
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._run, name="request log", daemon=True)
        self._thread.start()

    @property
    def num_dropped(self) -> int:
        """Lines that were not written: too many waited, or the disk was full."""
        return self._num_overflowed + self._num_failed

    def put(self, line: Mapping[str, object]) -> None:
        """Queue a line; drop it where too many wait."""
        try:
            self._queue.put_nowait(line)
        except queue.Full:
            self._num_overflowed += 1

    def close(self, *, timeout_seconds: float = 5.0) -> None:
        """Write what waits and end the thread."""
        with suppress(queue.Full):
            self._queue.put(None, timeout=timeout_seconds)
            self._thread.join(timeout=timeout_seconds)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._append(line)
            except Exception as exc:  # noqa: BLE001 (whatever it is, the next line is tried)
                self._num_failed += 1
                self._say(exc)

    def _say(self, exc: Exception) -> None:
        now = time.monotonic()
        if now > self._silent_until:
            with suppress(Exception):
                self._report(f"{self._files[0]} loses lines until it can be written again: {exc}")
        self._silent_until = now + _SILENT_SECONDS

    def _append(self, line: Mapping[str, object]) -> None:
        if self._previous is None:
            self._previous = self._resume()
        num_dropped = self.num_dropped
        dropped = {"dropped": num_dropped - self._num_told} if num_dropped > self._num_told else {}
        chained = {"previous": self._previous} if self._options.chain else {}
        content = json.dumps({**line, **dropped, **chained}).encode() + b"\n"
        self._rotate(len(content))
        _write(self._files[0], content)
        self._previous, self._num_told = _hash(content), num_dropped

    def _rotate(self, num_bytes: int) -> None:
        """Make room for so many bytes."""
        newest = self._files[0]
        size = newest.stat().st_size if newest.exists() else 0
        if size and size + num_bytes > self._options.max_bytes:
            for newer, older in reversed(list(pairwise(self._files))):
                if newer.exists():
                    newer.replace(older)

    def _resume(self) -> str:
        """Return the hash of the last line of the run before, "" if there is none; cut half a line off."""
        for path in filter(Path.exists, self._files[:2]):
            with path.open("rb+") as file:
                lines = deque(file, maxlen=2)
                if lines and not lines[-1].endswith(b"\n"):
                    file.truncate(file.tell() - len(lines.pop()))
            if lines:
                return _hash(lines[-1])
        return ""


def verify_chain(path: Path) -> tuple[int, str]:
    """Read a log from its oldest file to `path`, its newest. Return how many lines it has and the last one's hash.

    Raises ChainError at the first bad line.
    """
    rotated = list(takewhile(Path.exists, (_numbered(path, number) for number in count(1))))
    num_lines, previous = 0, None
    for file, number, line in _lines([*reversed(rotated), path]):
        named = _named(line)
        if named is None:
            raise ChainError(f"{file}, line {number}: no JSON with a hash of the line before")
        if previous not in (None, named):
            raise ChainError(
                f"{file}, line {number}: it does not follow the line before. One of the two was changed, "
                "or lines between them were removed or added"
            )
        num_lines, previous = num_lines + 1, _hash(line)
    return num_lines, previous or ""


def _lines(files: list[Path]) -> Iterator[tuple[Path, int, bytes]]:
    for file in files:
        with file.open("rb") as content:
            for number, line in enumerate(content, 1):
                yield file, number, line


def _named(line: bytes) -> str | None:
    """Return the hash that a line names."""
    try:
        return json.loads(line)["previous"]
    except (ValueError, KeyError, TypeError):
        return None


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Append all of it or nothing."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        written = os.write(file, content)
        if written < len(content):
            os.ftruncate(file, os.fstat(file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)
