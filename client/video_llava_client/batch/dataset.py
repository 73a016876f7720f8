"""A data set: its files, which of their rows are this shard's, and those rows one after another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

from ..errors import OptionError, UnreadableMedia
from ..sources import name_of, scheme_of
from .columns import ERROR, KEY, Columns, DataRow
from .readers import READERS, Values, read_media, read_parquet, row_group_sizes
from .storage import Address, StorageError, storage_failure

_UNITS_A_SHARD = 4  # files or row groups; with fewer, shards would differ too much in size
_MAX_COUNTED_FILES = 64  # of Parquet: each costs a request or two
_METADATA = re.compile(r"(^|/)metadata\.(csv|jsonl|parquet)$")
_WILD = re.compile(r"[*?\[{]")
_OPTIONS = re.compile(r"\?\w+=.*$")  # of an address: ?region=eu-west-1


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of a data set, with an `index` from 0."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise OptionError(f"a shard is I/N with 0 <= I < N, such as 0/4, got {self.index}/{self.count}")

    @property
    def name(self) -> str:
        """Such as 00003-of-00008."""
        return f"{self.index:05d}-of-{self.count:05d}"


class DataSet:
    """The rows of files at any address.

    A shard has every N-th file where there are four for each shard, else every N-th row group of Parquet, else every
    N-th row: then each shard reads all files.

    Args:
        source: A file, a folder, or a pattern with `*`, `**`, `?`, `[…]`, `{a,b}` and `{000..015}`.
        columns: What makes a question.
        shard: Which part.

    Attributes:
        split: "files", "row groups" or "rows".

    Raises:
        OptionError: There are no such files, or of several formats.
    """

    def __init__(self, source: str, columns: Columns, shard: Shard | None = None) -> None:
        self._columns = columns
        self._shard = shard or Shard()
        self._folder, files = _find(source)
        self._files = _of_one_format(files, source)
        self._group_sizes: dict[str, list[int]] = {}
        self._num_rows_read = self._num_units_read = 0
        self.split: str
        self._units: list[tuple[Address, list[int] | None]]
        self.split, self._units = self._divided()

    @cached_property
    def num_rows(self) -> int | None:
        """How many rows this shard has; None where only reading it tells.

        Raises:
            StorageError: A file cannot be read from where it is.
        """
        if READERS[_suffix(self._files[0])] is read_media:
            total = len(self._units)
        elif _suffix(self._files[0]) == "parquet" and len(self._files) <= _MAX_COUNTED_FILES:
            sizes = ((self._sizes(file), groups) for file, groups in self._units)
            total = sum(sum(size if groups is None else [size[group] for group in groups]) for size, groups in sizes)
        else:
            return None
        return len(range(self._shard.index, total, self._shard.count)) if self.split == "rows" else total

    @property
    def expected_rows(self) -> int | None:
        """`num_rows`, or what those of the files that were read to their end let expect; None before the first."""
        if self.num_rows is not None or not self._num_units_read:
            return self.num_rows
        return round(self._num_rows_read * len(self._units) / self._num_units_read)

    def rows(self, are_known: Callable[[list[str]], bool] | None = None) -> Iterator[DataRow]:
        """Yield this shard's rows. A file that is broken ends in a row with its error; the next file goes on.

        Args:
            are_known: Whether rows with these ids are not asked; then a row group of Parquet is passed over unread.

        Raises:
            StorageError: A file cannot be read from where it is.
            OptionError: A column that is named is not there.
        """
        picks, number = self._shard.count > 1 and self.split == "rows", 0
        place, self._num_units_read = -1, 0
        for file, groups in self._units:
            name = file.name_in(self._folder)
            for row, values in self._values(file, groups, None if picks else are_known):
                place += 1
                if picks and place % self._shard.count != self._shard.index:
                    continue
                number += 1
                yield self._columns.row(values, number, {"file": name, "row": row}, self._folder_of(file))
            self._num_rows_read, self._num_units_read = number, self._num_units_read + 1

    def _values(
        self, file: Address, groups: list[int] | None, are_known: Callable[[list[str]], bool] | None
    ) -> Iterator[tuple[int, Values]]:
        row, read = -1, READERS[_suffix(file)]
        if read is read_parquet:
            read = partial(read_parquet, groups=groups, are_known=are_known)
        try:
            for row, values in read(file, self._columns):
                yield row, values
        except (OptionError, StorageError):
            raise
        except Exception as exc:
            if (failure := storage_failure(exc)) is not None:
                raise failure from exc
            name = file.name_in(self._folder)
            error = UnreadableMedia(f"{name} is broken after {row + 1} rows ({exc})"[:500], source=name)
            yield row + 1, {KEY: "(broken)", ERROR: error}

    def _folder_of(self, file: Address) -> Address:
        """Return what addresses in a file start from: the data set's folder, or that of a metadata file."""
        if _METADATA.search(file.path) or READERS[_suffix(file)] is read_media:
            return Address(file.system, file.path.rpartition("/")[0])
        return self._folder

    def _divided(self) -> tuple[str, list[tuple[Address, list[int] | None]]]:
        index, count = self._shard.index, self._shard.count
        files: list[tuple[Address, list[int] | None]] = [(file, None) for file in self._files]
        if len(files) >= _UNITS_A_SHARD * count or count == 1:
            return "files", files[index::count]
        if _suffix(self._files[0]) == "parquet":
            groups: list[tuple[Address, list[int] | None]]
            groups = [(file, [group]) for file in self._files for group in range(len(self._sizes(file)))]
            if len(groups) >= _UNITS_A_SHARD * count:
                return "row groups", groups[index::count]
        return "rows", files

    def _sizes(self, file: Address) -> list[int]:
        """Return how many rows each row group of a Parquet file has; one with one row for a broken file, its error."""
        if file.path not in self._group_sizes:
            try:
                self._group_sizes[file.path] = row_group_sizes(file)
            except Exception as exc:
                if (failure := storage_failure(exc)) is not None:
                    raise failure from exc
                self._group_sizes[file.path] = [1]
        return self._group_sizes[file.path]


def _find(source: str) -> tuple[Address, list[Address]]:
    """Return the data set's folder and its files."""
    found = _OPTIONS.search(source) if scheme_of(source) else None
    options = found[0] if found else ""
    place = source.removesuffix(options)
    if not _WILD.search(place):
        address = Address.of(source)
        if not address.exists():
            raise OptionError(f"{name_of(source)} cannot be read (no such file or folder): check the name")
        if address.is_folder():
            return address, address.files()
        return Address(address.system, address.path.rpartition("/")[0]), [address]
    head = re.split(_WILD, place, maxsplit=1)[0].rpartition("/")[0]
    folder = Address.of(head + options or ("/" if place.startswith("/") else "."))
    patterns = [re.compile(_expression(one)) for one in _expanded(place[len(head) :].lstrip("/"))]
    files = [file for file in folder.files() if any(one.fullmatch(file.name_in(folder)) for one in patterns)]
    return folder, files


def _of_one_format(files: list[Address], source: str) -> list[Address]:
    """Return the files with rows: metadata of a folder of media, else those of one format, else the media."""
    if metadata := [file for file in files if _METADATA.search(file.path)]:
        return metadata
    known = [file for file in files if _suffix(file) in READERS]
    rows = [file for file in known if READERS[_suffix(file)] is not read_media] or known
    if not rows:
        raise OptionError(f"{name_of(source)} has no files of rows or media: known are {', '.join(READERS)}")
    if len(readers := {READERS[_suffix(file)] for file in rows}) > 1:
        found = ", ".join(sorted({_suffix(file) for file in rows}))
        raise OptionError(
            f"{name_of(source)} has files of {len(readers)} formats ({found}): name those of one, such as DIR/*.tar"
        )
    return rows


def _suffix(file: Address) -> str:
    name = file.path.rpartition("/")[2].lower()
    return "tar.gz" if name.endswith(".tar.gz") else name.rpartition(".")[2]


def _expanded(pattern: str) -> Iterable[str]:
    """Return the patterns that one with braces stands for."""
    parts: list[list[str]] = [[]]
    for text in re.split(r"(\{[^{}]*\})", pattern):
        numbers = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", text)
        if numbers:
            width = len(numbers[1])
            parts.append([f"{number:0{width}d}" for number in range(int(numbers[1]), int(numbers[2]) + 1)])
        else:
            parts.append(text[1:-1].split(",") if text.startswith("{") else [text])
    return ("".join(each) for each in product(*parts[1:]))


def _expression(pattern: str) -> str:
    words: dict[str, Any] = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    split = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", pattern)
    return "".join(words.get(text) or (text if text.startswith("[") else re.escape(text)) for text in split)
