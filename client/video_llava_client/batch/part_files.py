"""Records in files of JSON lines or Parquet."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import OptionError
from .storage import Address

KINDS = ("jsonl", "parquet")
_TYPES = {
    "id": "string",
    "file": "string",
    "row": "int64",
    "text": "string",
    "finish_reason": "string",
    "num_input_tokens": "int64",
    "num_cached_tokens": "int64",
    "num_output_tokens": "int64",
    "total_seconds": "float64",
    "retry": "bool",
    "attempts": "int64",
}


def kind_of(name: str) -> str:
    """Return the format that a file's name ends with. Raises OptionError for others."""
    kind = name.partition("?")[0].rpartition(".")[2].lower()
    if kind not in KINDS:
        raise OptionError(f"{name} must end with .jsonl or .parquet")
    return kind


def dump_line(record: Mapping[str, Any]) -> bytes:
    """Return one line of JSON."""
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def encode(lines: Sequence[bytes], kind: str) -> list[bytes]:
    """Return the content of a file with these records, each a line of JSON."""
    if kind == "jsonl":
        return list(lines)
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(to_table([json.loads(line) for line in lines]), file, compression="zstd")
    return [file.getvalue()]


def read_records(file: Address, names: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the records of a file, or only these columns of them."""
    try:
        if kind_of(file.path) == "jsonl":
            with file.open() as source:
                yield from map(json.loads, source)
            return
        import pyarrow.parquet as pq

        with file.open() as source, pq.ParquetFile(source, pre_buffer=False) as parquet:
            known = parquet.schema_arrow.names
            columns = known if names is None else [name for name in names if name in known]
            for batch in parquet.iter_batches(1024, columns=columns, use_threads=False):
                for record in batch.to_pylist():
                    yield {name: value for name, value in record.items() if value is not None}
    except ValueError as exc:  # JSON's, and pyarrow's
        raise OptionError(f"{file.path} is not a part of a batch ({exc}): remove it"[:500]) from exc


def to_table(records: Sequence[Mapping[str, Any]], schema: Any = None) -> Any:
    """Return records as a table of pyarrow's, with these columns or with those that they have."""
    import pyarrow as pa

    if schema is None:
        names: Iterable[str] = dict.fromkeys([*_TYPES, "error", *(name for record in records for name in record)])
        error = pa.struct([("type", pa.string()), ("message", pa.string())])
        known = {"error": error} | {name: pa.type_for_alias(alias) for name, alias in _TYPES.items()}
        kinds = {name: known.get(name) for name in names}
    else:
        kinds = {field.name: field.type for field in schema}
    return pa.table({name: _array([record.get(name) for record in records], kind) for name, kind in kinds.items()})


def joined(first: Any, second: Any) -> Any:
    """Return a schema for the rows of both; a column of two types that no type holds becomes JSON in text."""
    import pyarrow as pa

    kinds = {field.name: field for field in first or ()}
    for field in second:
        if (known := kinds.get(field.name)) is None:
            kinds[field.name] = field
            continue
        try:
            both = [pa.schema([known]), pa.schema([field])]
            kinds[field.name] = pa.unify_schemas(both, promote_options="permissive").field(0)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            kinds[field.name] = pa.field(field.name, pa.string())
    return pa.schema(list(kinds.values()))


def _array(values: list[Any], kind: Any) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError):
        return pa.array([None if value is None else _text(value) for value in values], type=pa.string())


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()
