"""Files of a data set as rows: each a mapping from column to value, and none of them larger than it has to be.

Media of one row are read when the row is: a row group or a tar is never in memory as a whole.
"""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from tarfile import EmptyHeaderError, ReadError  # pyright: ignore[reportAttributeAccessIssue]
from typing import Any

from ..errors import MediaTooLarge, PromptError, VideoLlavaError
from ..limits import MediaLimits
from .columns import ERROR, IMAGES, KEY, VIDEOS, Columns
from .lines import parse_object, read_lines
from .storage import Address

Values = dict[str, Any]
_BATCH_BYTES, _MAX_BATCH_ROWS = 1 << 24, 1024
_MAX_BYTES = MediaLimits().max_bytes or 0


def row_group_sizes(file: Address) -> list[int]:
    """Return how many rows each row group of a Parquet file has."""
    import pyarrow.parquet as pq

    with file.open() as source, pq.ParquetFile(source) as parquet:
        return [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]


def read_parquet(
    file: Address,
    columns: Columns,
    groups: Sequence[int] | None = None,
    are_known: Callable[[list[str]], bool] | None = None,
) -> Iterator[tuple[int, Values]]:
    """Yield rows of a Parquet file, with their number in it, in batches of about 16 MiB.

    Args:
        file: The file.
        columns: Which columns.
        groups: Only these row groups.
        are_known: Called with the ids of a row group; if it returns true, nothing else of the group is read.
    """
    import pyarrow.parquet as pq

    # Without these two a whole column of a row group is read at once.
    with file.open() as source, pq.ParquetFile(source, pre_buffer=False, buffer_size=1 << 20) as parquet:
        names = columns.needed(parquet.schema_arrow.names, source=file.path)
        sizes = [parquet.metadata.row_group(group) for group in range(parquet.num_row_groups)]
        for group in range(len(sizes)) if groups is None else groups:
            if are_known is not None and (name := columns.id_column or "id") in names:
                ids = parquet.read_row_group(group, columns=[name], use_threads=False).column(0).to_pylist()
                if are_known(list(map(str, ids))):
                    continue
            number, group_size = sum(size.num_rows for size in sizes[:group]), sizes[group]
            row_bytes = max(1, group_size.total_byte_size // max(1, group_size.num_rows))
            num_rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // row_bytes))
            options = {"row_groups": [group], "columns": names, "use_threads": False}
            for batch in parquet.iter_batches(num_rows, **options):
                yield from enumerate(_rows(batch), start=number)
                number += batch.num_rows


def read_arrow(file: Address, columns: Columns) -> Iterator[tuple[int, Values]]:
    """Yield rows of an Arrow file of `save_to_disk`; elsewhere than on this machine, a record batch at once."""
    import pyarrow as pa

    is_local = file.system.type_name == "local"
    with pa.memory_map(file.path) if is_local else pa.PythonFile(file.open(), mode="r") as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        names = columns.needed(reader.schema.names, source=file.path)
        batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else iter(reader)
        number = 0
        for batch in batches:
            yield from enumerate(_rows(batch.select(names)), start=number)
            number += batch.num_rows


def read_json_lines(file: Address, _columns: Columns) -> Iterator[tuple[int, Values]]:
    """Yield the objects of a file of JSON lines."""
    with file.open() as source:
        for line in read_lines(source):
            try:
                yield line.number - 1, parse_object(line.data, f"line {line.number}")
            except PromptError as exc:
                yield line.number - 1, {ERROR: exc}


def read_csv(file: Address, columns: Columns) -> Iterator[tuple[int, Values]]:
    """Yield the rows of a CSV file whose first line has the names."""
    with io.TextIOWrapper(file.open(), encoding="utf-8-sig", newline="") as source:
        reader = csv.DictReader(source)
        columns.needed(list(reader.fieldnames or ()), source=file.path)
        for number, row in enumerate(reader):
            yield number, {name: value for name, value in row.items() if name is not None and value != ""}


def read_tar(file: Address, columns: Columns) -> Iterator[tuple[int, Values]]:
    """Yield the samples of a WebDataset tar: members in a row whose names are equal up to the first dot."""
    with file.open() as source, tarfile.open(fileobj=source, mode="r|*", tarinfo=_Member) as opened:
        tar: Any = opened
        members = (member for member in tar if member.isfile() and not _split(member.name)[0].startswith("."))
        for number, (_, group) in enumerate(groupby(members, key=lambda member: _split(member.name)[:2])):
            yield number, _sample(tar, group, columns)
            tar.members.clear()  # it would remember each


def read_media(file: Address, _columns: Columns) -> Iterator[tuple[int, Values]]:
    """Yield one row: the file itself."""
    yield 0, {"file_name": file.path.rpartition("/")[2]}


READERS: dict[str, Callable[[Address, Columns], Iterator[tuple[int, Values]]]] = {
    "parquet": read_parquet,
    "arrow": read_arrow,
    "tar": read_tar,
    "tgz": read_tar,
    "tar.gz": read_tar,
    "jsonl": read_json_lines,
    "ndjson": read_json_lines,
    "csv": read_csv,
} | dict.fromkeys((*VIDEOS, *IMAGES), read_media)


class _Member(tarfile.TarInfo):
    """A member of a tar that must have an end: tarfile takes one that is cut off between members for a whole one."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:
        try:
            return super().fromtarfile(tarfile)
        except EmptyHeaderError as exc:
            raise ReadError("it has no end") from exc


def _rows(batch: Any) -> Iterator[Values]:
    names = batch.schema.names
    for number in range(batch.num_rows):
        yield {name: batch.column(place)[number].as_py() for place, name in enumerate(names)}


def _split(name: str) -> tuple[str, str, str]:
    """Return the name's last part up to its first dot, its folder, and the ending after that dot."""
    folder, _, last = name.rpartition("/")
    key, _, suffix = last.partition(".")
    return key, folder, suffix.lower()


def _sample(tar: Any, members: Iterator[tarfile.TarInfo], columns: Columns) -> Values:
    """Return the columns of a sample: its fields of `json`, each member by its ending, `video` and `images`."""
    values: Values = {}
    media: dict[str, list[Any]] = {"video": [], "images": []}
    for member in members:
        key, folder, suffix = _split(member.name)
        values[KEY] = f"{folder}/{key}".lstrip("./")
        ending = suffix.rpartition(".")[2]
        kind = "video" if ending in VIDEOS else "images" if ending in IMAGES else ""
        try:
            if kind or suffix in columns.named or suffix in ("json", "txt"):
                content = _content(tar, member)
                if suffix == "json":
                    values = parse_object(content, member.name) | values
                elif kind:
                    values[suffix] = {"bytes": content, "path": member.name}
                    media[kind].append(values[suffix])
                else:
                    values[suffix] = content.decode().strip()
        except VideoLlavaError as exc:
            values[ERROR] = exc
        except UnicodeDecodeError as exc:
            values[ERROR] = PromptError(f"{member.name} is not text in UTF-8 ({exc})")
    return values | {name: found[0] if len(found) == 1 else found for name, found in media.items() if found}


def _content(tar: Any, member: tarfile.TarInfo) -> bytes:
    if member.size > _MAX_BYTES:
        message = f"{member.name} has {member.size} bytes, over the limit of {_MAX_BYTES}: give a smaller one"
        raise MediaTooLarge(message, source=member.name)
    file = tar.extractfile(member)
    assert file is not None
    content = file.read()
    if len(content) < member.size:
        raise ReadError(f"{member.name} is cut off")
    return content
