"""Ray Data asks the rows of its data sets, and keeps their records as the parts of a batch.

    columns = Columns(question="What happens?", id_column="clip_id")
    asked = ray.data.read_parquet("s3://bucket/clips/").map_batches(
        AskVideoLlava,
        fn_constructor_kwargs={"url": "triton:8001", "columns": columns, "out": "s3://bucket/captions/"},
        batch_format="pyarrow",
        batch_size=32,
        concurrency=8,
    )
    asked.write_datasink(PartsSink("s3://bucket/captions/"))

Needs Ray Data and this package's extra [data] on every node. Ray restarts what died with a node, and asks rows again
whose records it has lost; `video-llava batch merge` has each of them once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .async_client import AsyncVideoLlava
from .batch import Stop, kept_options
from .batch.columns import Columns, DataRow
from .batch.dataset import Shard
from .batch.pace import Pace
from .batch.part_files import KINDS, dump_line, encode, to_table
from .batch.parts import Known, check_job, new_run, write_part
from .batch.report import Report
from .batch.runner import Asker
from .batch.storage import Address
from .errors import OptionError, ServerError
from .request import DEFAULT_MAX_TOKENS

if TYPE_CHECKING:
    Datasink = object
else:
    try:
        from ray.data import Datasink
    except ImportError:  # tests do without
        Datasink = object

__all__ = ["AskVideoLlava", "Columns", "PartsSink"]

_SHARD = Shard().name
_LOG = logging.getLogger("video_llava_client")
_NO_PLACE = {"file": "", "row": 0}  # a row of Ray's has none


class AskVideoLlava:
    """Asks the rows of batches, for `Dataset.map_batches`; each of Ray's actors has one of these.

    A batch becomes a table with a record for each row: `id`, the columns that `columns` keeps, and `text`,
    `finish_reason`, token counts and `total_seconds`, or `error` with `type` and `message`, and `attempts`. A row that
    fails does not raise.

    Args:
        url: As of `AsyncVideoLlava`.
        columns: What makes a question. A row needs an id, by which it is known again.
        out: Where the records go, as of `PartsSink`. A row that is known there is not asked: its record has no answer.
            Each actor reads the parts at its start, and has 100 bytes in memory for each of their rows.
        folder: What relative addresses of media start from.
        concurrency: The most rows that this actor asks at a time, over all batches; None: as many as the server wants.
        priority: How many steps the rows go behind the requests of others.
        patience_seconds: How long to go on while no server answers.
        max_attempts: How often a row is asked, over all runs with this `out`, while the server fails.
        ask: Arguments of `ask` for rows that do not have them.
        **client: Other arguments of `AsyncVideoLlava`.

    Raises:
        OptionError: `out` has records with other options.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        columns: Columns,
        out: str | None = None,
        folder: str = ".",
        concurrency: int | None = None,
        priority: int = 1,
        patience_seconds: float = 600.0,
        max_attempts: int = 3,
        ask: Mapping[str, Any] | None = None,
        **client: Any,
    ) -> None:
        self._columns = columns
        self._folder = Address.of(folder)
        self._defaults = {"max_tokens": DEFAULT_MAX_TOKENS, "temperature": 0.0, **(ask or {})}
        parts = Address.of(out) if out else None
        if parts:
            model = client.get("model", "video_llava")
            check_job(parts, {**kept_options(model, self._defaults), **columns.options})
        self._known = Known(parts, max_attempts=max_attempts)
        pace = Pace(concurrency, patience_seconds, _report_waiting)
        self._client = AsyncVideoLlava(url, **client)
        extras = {"server_load": True, "priority": priority}
        self._asker = Asker(self._client, pace, Stop(), Report(), self._defaults, extras)

    async def __call__(self, batch: Any) -> AsyncIterator[Any]:
        """Yield a pyarrow.Table with the records of a batch, a pyarrow.Table or arrays by column.

        Raises:
            ServerError: No patience is left. Ray then ends the run; the same one resumes if it has `out`.
            OptionError: A column is missing.
        """
        rows = self._rows(batch)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._record(row)) for row in rows]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        yield to_table([task.result() for task in tasks])

    async def close(self) -> None:
        """Close the connections. Ray does not: an actor's end does."""
        await self._client.close()

    def _rows(self, batch: Any) -> list[DataRow]:
        given = list(getattr(batch, "column_names", batch))
        names = self._columns.needed(given, source="the data set")
        if self._columns.id_column is None and "id" not in names:
            raise OptionError(f"rows need an id: give Columns(id_column=NAME), one of {', '.join(given)}"[:500])
        return [
            self._columns.row(values, number, _NO_PLACE, self._folder)
            for number, values in enumerate(_values(batch, names), start=1)
        ]

    async def _record(self, row: DataRow) -> Mapping[str, Any]:
        if row.digest in self._known:
            return row.copied
        record = await self._asker.answer(row, lambda _num_bytes: None)
        return self._known.entry(row, record or {})


class PartsSink(Datasink):
    """Keeps records as parts in a folder, for `Dataset.write_datasink`.

    A record is a row with `id`, and `text` or `error` with `type` and `message`; other rows are passed over. A part is
    there whole or not at all. Records of a write that Ray does again are there twice, until they are merged.

    Args:
        out: A folder, at any address.
        part_format: "jsonl" or "parquet".
        num_rows: The least for a part, but for the last; None: each block of Ray's is one.
        patience_seconds: How long to try while a part cannot be written.
    """

    def __init__(
        self, out: str, *, part_format: str = "jsonl", num_rows: int | None = None, patience_seconds: float = 600.0
    ) -> None:
        if part_format not in KINDS:
            raise OptionError(f"part_format must be one of {', '.join(KINDS)}, got {part_format!r:.80}")
        self._out = out
        self._kind = part_format
        self._num_rows = num_rows
        self._patience_seconds = patience_seconds

    @property
    def min_rows_per_write(self) -> int | None:
        """How many rows Ray gathers for a part."""
        return self._num_rows

    def write(self, blocks: Iterable[Any], ctx: Any) -> None:  # noqa: ARG002
        """Write a part with the records of these blocks.

        Raises:
            OSError: It cannot be written.
            OptionError: A record has no id.
        """
        records = (record for block in blocks for record in _values(block))
        lines = [dump_line(_entry(record)) for record in records if "text" in record or "error" in record]
        if lines:
            file = Address.of(self._out) / f"part-{_SHARD}-{new_run()}-00000.{self._kind}"
            write_part(file, encode(lines, self._kind), self._patience_seconds)

    def on_write_complete(self, write_result: Any) -> None:
        """Write that all rows were read."""
        done = {"shard": _SHARD, "num_rows": int(write_result.num_rows), "parts": []}
        (Address.of(self._out) / f"done-{_SHARD}-{new_run()}.json").write([json.dumps(done).encode()])


def _entry(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record as parts have it."""
    if "id" not in record:
        raise OptionError(f"a record needs an id, this one has {', '.join(record)}"[:500])
    attempts = {"attempts": 1} if "error" in record else {}
    return {**_NO_PLACE, **attempts, **record, "id": str(record["id"])}


def _values(batch: Any, names: list[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of a pyarrow.Table, a pandas.DataFrame or arrays by column, without what they have not."""
    if hasattr(batch, "to_pylist"):
        rows = (batch if names is None else batch.select(names)).to_pylist()
    else:
        columns = {name: [_plain(value) for value in batch[name]] for name in names or list(batch)}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _plain(value: Any) -> Any:
    """Return what NumPy has in place of Python's own values; NaN stands for no value."""
    if isinstance(value, np.ndarray):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value


def _report_waiting(error: ServerError) -> None:
    _LOG.warning("a server is waited for: %s", error)
