"""Records in a folder at any address, as parts that are only ever added."""

from __future__ import annotations

import json
import re
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from ..errors import OptionError
from .columns import DataRow, digest_of
from .dataset import Shard
from .part_files import dump_line, encode, read_records
from .report import Report
from .rows import Record
from .storage import Address, StorageError

PART = re.compile(r"part-(?P<shard>\d{5}-of-(?P<count>\d{5}))-[0-9a-f]+-\d{5}\.(jsonl|parquet)")
MANIFEST = re.compile(r"done-(?P<shard>\d{5}-of-\d{5})-[0-9a-f]+\.json")
REPORT = re.compile(r"report-\d{5}-of-\d{5}-[0-9a-f]+\.json")
JOB = "job.json"
_STATE = ("id", "error", "retry", "attempts")
_MAX_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class Flush:
    """When a part is written: when one of these is reached, and at the end.

    Attributes:
        num_rows: Records.
        num_bytes: Bytes of records.
        seconds: Since the first record of the part: a kill costs at most so much work.
        patience_seconds: How long to try while the part cannot be written.
    """

    num_rows: int = 10_000
    num_bytes: int = 1 << 26
    seconds: float = 30.0
    patience_seconds: float = 600.0


class Known:
    """What the parts in a folder say about rows, in about 100 bytes for each.

    A row is known if a part has its answer, or an error that is not retried.

    Args:
        folder: Where the parts are; None: there are none.
        shard: Parts of other shards of as many are not read; None: all are.
        max_attempts: How often a row is asked, over all runs, while the server fails or a medium cannot be read.
        retry_quarantined: Whether rows whose error would be final are asked once more.
    """

    def __init__(
        self, folder: Address | None, shard: Shard | None = None, *, max_attempts: int, retry_quarantined: bool = False
    ) -> None:
        self._max_attempts = max_attempts
        self._answered: set[bytes] = set()
        self._attempts: dict[bytes, int] = {}
        final: set[bytes] = set()
        for name, file in parts_of(folder) if folder else ():
            if shard and name["shard"] != shard.name and int(name["count"]) == shard.count:
                continue
            for record in read_records(file, _STATE):
                digest = bytes.fromhex(digest_of(record["id"]))
                if "error" not in record:
                    self._answered.add(digest)
                    continue
                attempts = self._attempts[digest] = max(self._attempts.get(digest, 0), record["attempts"])
                if not record.get("retry") or attempts >= max_attempts:
                    final.add(digest)
        if not retry_quarantined:
            self._answered |= final

    def __len__(self) -> int:
        return len(self._answered)

    def __contains__(self, digest: str) -> bool:
        return bytes.fromhex(digest) in self._answered

    def add(self, digest: str) -> None:
        """Know a row from now on."""
        self._answered.add(bytes.fromhex(digest))

    def entry(self, row: DataRow, record: Record) -> Record:
        """Return the record as parts have it; an error counts the attempts, and is final after the last."""
        entry: dict[str, Any] = {**row.copied, **record}
        if "error" in entry:
            entry["attempts"] = self._attempts.get(bytes.fromhex(row.digest), 0) + 1
            if entry["attempts"] >= self._max_attempts:
                entry.pop("retry", None)
        return entry


class Parts:
    """The records of one shard; used in a `with` block.

    A row is known (`Known`) by the parts of this shard, and of runs with another number of shards. A part has a name of
    its own and appears whole, so that workers on one shard do no harm. In memory are the ids that are known, and the
    part that is not written yet.

    Args:
        folder: Where the parts are.
        shard: Whose records these are.
        options: How all rows are answered; a later run with others is refused.
        kind: "jsonl" or "parquet".
        max_attempts: As of `Known`.
        retry_quarantined: As of `Known`.
        flush: When parts are written.
        report: Is written beside them, after each part and at the end.
    """

    def __init__(
        self,
        folder: Address,
        shard: Shard,
        *,
        options: Record,
        kind: str = "jsonl",
        max_attempts: int = 3,
        retry_quarantined: bool = False,
        flush: Flush | None = None,
        report: Report | None = None,
    ) -> None:
        self._folder = folder
        self._shard = shard
        self._kind = kind
        self._flush = flush or Flush()
        self._report = report
        self._run = new_run()
        self._parts: list[str] = []
        self._num_rows = 0
        check_job(folder, options)
        self._known = Known(folder, shard, max_attempts=max_attempts, retry_quarantined=retry_quarantined)
        self.num_known: int = len(self._known)
        self._changed = threading.Condition()
        self._lines: list[bytes] = []
        self._num_bytes, self._due_at = 0, 0.0
        self._ends = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._write_parts, name="video-llava-parts", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        self._stop()
        self._write_report()
        if kind is None and self._error is not None:
            raise self._error

    def knows(self, row: DataRow) -> bool:
        """Whether the row is not asked: it has a record, or an equal row came before."""
        self._num_rows += 1
        if row.digest in self._known:
            return True
        self._known.add(row.digest)
        return False

    def knows_all(self, ids: list[str]) -> bool:
        """Whether the rows with these ids are not asked: `knows` is then not called for them."""
        if any(digest_of(each) not in self._known for each in ids):
            return False
        self._num_rows += len(ids)
        return True

    def write(self, row: DataRow, record: Record) -> None:
        """Take the record of a row.

        Raises:
            OSError: An earlier part could not be written.
        """
        line = dump_line(self._known.entry(row, record))
        with self._changed:
            if self._error is not None:
                raise self._error
            if not self._lines:
                self._due_at = time.monotonic() + self._flush.seconds
            self._lines.append(line)
            self._num_bytes += len(line)
            if len(self._lines) >= self._flush.num_rows or self._num_bytes >= self._flush.num_bytes:
                self._due_at = 0.0
            self._changed.notify()

    def finish(self) -> None:
        """Write the last part, and then a manifest: all rows of the shard were read.

        Raises:
            OSError: One of them cannot be written.
        """
        self._stop()
        if self._error is not None:
            raise self._error
        done = {"shard": self._shard.name, "num_rows": self._num_rows, "parts": self._parts}
        (self._folder / f"done-{self._shard.name}-{self._run}.json").write([json.dumps(done).encode()])

    def _stop(self) -> None:
        with self._changed:
            self._ends = True
            self._changed.notify()
        self._thread.join()

    def _write_parts(self) -> None:
        while lines := self._next_part():
            name = f"part-{self._shard.name}-{self._run}-{len(self._parts):05d}.{self._kind}"
            try:
                write_part(self._folder / name, encode(lines, self._kind), self._flush.patience_seconds)
            except OSError as exc:
                with self._changed:
                    self._error = exc
                return
            self._parts.append(name)
            self._write_report()

    def _write_report(self) -> None:
        if self._report and self._parts:
            file = self._folder / f"report-{self._shard.name}-{self._run}.json"
            with suppress(OSError):  # the next one has it all
                file.write([json.dumps(self._report.to_json()).encode()])

    def _next_part(self) -> list[bytes]:
        """Wait until a part is due; return its lines, none when there will be no more."""
        with self._changed:
            while not self._ends and (not self._lines or self._due_at > time.monotonic()):
                self._changed.wait(self._due_at - time.monotonic() if self._lines else None)
            lines, self._lines, self._num_bytes = self._lines, [], 0
            return lines


def new_run() -> str:
    """Return hexadecimal digits for the names of what one writer writes; those of a later one are greater."""
    return f"{time.time_ns():x}{uuid.uuid4().hex[:8]}"


def write_part(file: Address, chunks: list[bytes], patience_seconds: float) -> None:
    """Write a part, again and again while that fails. Raises OSError when no patience is left."""
    ends_at, pause = time.monotonic() + patience_seconds, 0.5
    while True:
        try:
            file.write(chunks)
            return
        except OSError:
            if time.monotonic() + pause > ends_at:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE_SECONDS)


def parts_of(folder: Address) -> Iterator[tuple[re.Match[str], Address]]:
    """Yield the parts in a folder by name, each with the match of its name."""
    for file in folder.files():
        if match := PART.fullmatch(file.name_in(folder)):
            yield match, file


def check_job(folder: Address, options: Record) -> None:
    """Write the options that all records answer to, or refuse others than those of the folder."""
    file, given = folder / JOB, json.loads(json.dumps(options))
    try:
        kept = json.loads(file.read())
    except (StorageError, ValueError):
        if any(True for _ in parts_of(folder)):
            raise OptionError(f"{folder.path} has parts but its {JOB} cannot be read: name another folder") from None
        file.write([json.dumps(given).encode()])
        return
    if kept != given:
        changed = sorted(name for name in {*kept, *given} if kept.get(name) != given.get(name))
        changes = ", ".join(f"{name} {kept.get(name)!r:.40} -> {given.get(name)!r:.40}" for name in changed)
        raise OptionError(
            f"{folder.path} has records with other options ({changes}): give the same ones or name another folder"
        )
