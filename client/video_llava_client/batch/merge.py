"""All parts of a folder as one record for each row, and how far the job is. Memory does not grow with the records."""

from __future__ import annotations

import heapq
import json
import pickle
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

from ..errors import OptionError
from .part_files import dump_line, joined, kind_of, read_records, to_table
from .parts import MANIFEST, REPORT, parts_of
from .report import Report
from .storage import Address

Values = dict[str, Any]
_RUN_BYTES = 1 << 26
_CHUNK_ROWS = 10_000
_SHARD = "__shard__"
_STATE = ("id", "error", "retry", "attempts", "file", "row")


@dataclass
class State:
    """How far a job is.

    Attributes:
        num_answered: Rows with an answer.
        num_retried: Rows with an error that the next run asks again.
        num_quarantined: Rows with an error that it does not.
        errors: Quarantined rows by the type of their error.
        examples: For each type, the first ids by name.
        shards: For each shard with a part or a manifest: its records that count, and whether it was read to its end.
        report: What all runs took together, as `Report.to_json` has it; None if none was written.
    """

    num_answered: int = 0
    num_retried: int = 0
    num_quarantined: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    shards: dict[str, dict[str, Any]] = field(default_factory=dict)
    report: dict[str, Any] | None = None


def merge(folder: Address, into: Address, *, ordered: bool = False) -> int:
    """Write one record for each row into one file, and return their number.

    An answer comes before an error; of several answers, always the same one is taken. Records are in the order of their
    ids, or in that of the data set's files and rows if `ordered`.

    Args:
        folder: Has the parts.
        into: Ends with .jsonl or .parquet.
        ordered: As the rows of the data set.

    Raises:
        OptionError: The folder has no parts.
    """
    kind = kind_of(into.path)
    if next(parts_of(folder), None) is None:
        raise OptionError(f"{folder.path} has no parts of a batch: name the folder that a batch wrote")
    records = _one_for_each_row(_stored(folder))
    if ordered:
        records = _sorted(records, lambda record: (record["file"], record["row"], record["id"]))
    with tempfile.TemporaryFile() as file:
        number = (_write_lines if kind == "jsonl" else _write_parquet)(records, file)
        file.seek(0)
        into.write(iter(lambda: file.read(_RUN_BYTES), b""))
    return number


def read_state(folder: Address, *, num_gpus: float | None = None, num_examples: int = 3) -> State:
    """Return how far the job is that writes into this folder, and what it took with so many GPUs."""
    state = State()
    reports: list[Values] = []
    for file in folder.files():
        if match := MANIFEST.fullmatch(name := file.name_in(folder)):
            done = json.loads(file.read())
            state.shards[match["shard"]] = {"num_records": 0, "is_read": True, "num_rows": done["num_rows"]}
        elif REPORT.fullmatch(name):
            reports.append(json.loads(file.read()))
    for record in _one_for_each_row(_stored(folder, _STATE)):
        shard = state.shards.setdefault(record[_SHARD], {"num_records": 0, "is_read": False})
        shard["num_records"] += 1
        if "error" not in record:
            state.num_answered += 1
        elif record.get("retry"):
            state.num_retried += 1
        else:
            state.num_quarantined += 1
            name = record["error"]["type"]
            state.errors[name] += 1
            if len(found := state.examples.setdefault(name, [])) < num_examples:
                found.append(record["id"])
    if reports:
        total = Report.sum_of(reports)
        total.is_finished = all(shard["is_read"] for shard in state.shards.values())
        state.report = total.to_json(num_gpus=num_gpus)
    return state


def _stored(folder: Address, names: Sequence[str] | None = None) -> Iterator[Values]:
    for match, file in parts_of(folder):
        for record in read_records(file, names):
            yield record | {_SHARD: match["shard"]}


def _one_for_each_row(records: Iterable[Values]) -> Iterator[Values]:
    def rank(record: Values) -> tuple[Any, ...]:
        text = json.dumps(record, sort_keys=True, default=str)
        return record["id"], "error" in record, -record.get("attempts", 0), text

    last = None
    for record in _sorted(records, rank):
        if record["id"] != last:
            last = record["id"]
            yield record


def _sorted(records: Iterable[Values], key: Callable[[Values], Any]) -> Iterator[Values]:
    """Yield records by `key`, sorted through temporary files."""
    with ExitStack() as opened:
        runs: list[IO[bytes]] = []
        run: list[tuple[Any, bytes]] = []
        num_bytes = 0
        for record in records:
            run.append((key(record), pickle.dumps(record)))
            num_bytes += 2 * len(run[-1][1]) + 200
            if num_bytes > _RUN_BYTES:
                runs.append(_spilled(run, opened))
                run, num_bytes = [], 0
        run.sort()
        for _, data in heapq.merge(run, *map(_read_run, runs)):
            yield pickle.loads(data)


def _spilled(run: list[tuple[Any, bytes]], opened: ExitStack) -> IO[bytes]:
    file = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (`opened` closes it)
    for entry in sorted(run):
        pickle.dump(entry, file)
    file.seek(0)
    return file


def _read_run(file: IO[bytes]) -> Iterator[Any]:
    while True:
        try:
            yield pickle.load(file)
        except EOFError:
            return


def _write_lines(records: Iterable[Values], file: IO[bytes]) -> int:
    number = 0
    for record in records:
        file.write(dump_line(_public(record)))
        number += 1
    return number


def _write_parquet(records: Iterable[Values], file: IO[bytes]) -> int:
    """Write the records once to learn their columns, then as Parquet."""
    import pyarrow.parquet as pq

    schema, number = None, 0
    with tempfile.TemporaryFile() as spilled:
        records = iter(records)
        while chunk := [_public(record) for record in islice(records, _CHUNK_ROWS)]:
            schema = joined(schema, to_table(chunk).schema)
            pickle.dump(chunk, spilled)
            number += len(chunk)
        spilled.seek(0)
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for chunk in _read_run(spilled):
                writer.write_table(to_table(chunk, schema))
    return number


def _public(record: Values) -> Values:
    return {name: value for name, value in record.items() if name != _SHARD}
