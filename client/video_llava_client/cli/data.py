"""Options and commands of `video-llava batch` for data sets and folders of parts."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OptionError
from ..sources import name_of, scheme_of
from .options import option, takes
from .output import as_text, echo_json, exit_codes, note

if TYPE_CHECKING:
    from ..batch.columns import Columns
    from ..batch.dataset import DataSet, Shard
    from ..batch.parts import Parts
    from ..batch.report import Report

_LINES = (".jsonl", ".ndjson", ".json", ".txt")
_INDEX = "JOB_COMPLETION_INDEX"


@dataclass(frozen=True)
class ReportOptions:
    """What a run took."""

    path: Path | None = option(
        "--report",
        "path",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Write what it took as .json, or as .html, a page.",
    )
    gpus: float | None = option(
        "--gpus",
        metavar="N",
        type=click.FloatRange(min=0, min_open=True),
        help="GPUs of the servers, for figures of each one.",
    )


@dataclass(frozen=True)
class DataOptions:
    """How a data set is read, and how the parts of its answers are written."""

    question: str | None = option("--question", metavar="TEXT", help="Ask this of every row.")
    question_column: str | None = option("--question-column", metavar="NAME", help="The column with the question.")
    video_column: str | None = option(
        "--video-column", metavar="NAME", help="The column with videos: bytes, addresses or structs of both."
    )
    image_column: str | None = option("--image-column", metavar="NAME", help="The column with images.")
    id_column: str | None = option("--id-column", metavar="NAME", help="The column that tells rows apart.")
    keep: tuple[str, ...] = option("--keep", multiple=True, metavar="NAME", help="Copy this column; repeatable.")
    shard: str | None = option(
        "--shard", metavar="I/N", help=f"Answer only part I of N, from 0; /N takes I from {_INDEX}."
    )
    part_format: str = option(
        "--part-format", type=click.Choice(["jsonl", "parquet"]), default="jsonl", help="Of the parts in a folder OUT."
    )
    part_seconds: float = option(
        "--part-seconds", type=click.FloatRange(min=0), default=30.0, help="Write a part at least so often."
    )
    max_attempts: int = option(
        "--max-attempts", type=click.IntRange(1), default=3, help="How often a row may fail before it is quarantined."
    )
    retry_quarantined: bool = option("--retry-quarantined", is_flag=True, help="Ask quarantined rows once more.")

    def is_meant(self, source: str, target: str) -> bool:
        """Whether IN is a data set or OUT a folder, not a file of lines answered into another."""
        named = (self.question, self.question_column, self.video_column, self.image_column, self.id_column, self.shard)
        is_lines = source == "-" or (source.lower().endswith(_LINES) and not scheme_of(source))
        is_other = not is_lines and (bool(scheme_of(source)) or _is_data(source))
        return is_other or is_folder(target) or any(named) or bool(self.keep)

    def columns(self) -> Columns:
        """Return how columns are read."""
        from ..batch.columns import Columns

        return Columns(
            question=self.question,
            question_column=self.question_column,
            video_column=self.video_column,
            image_column=self.image_column,
            id_column=self.id_column,
            keep=self.keep,
        )

    def data_set(self, source: str) -> DataSet:
        """Return the data set at IN, or this shard of it."""
        from ..batch.dataset import DataSet

        if source == "-":
            raise OptionError("a data set cannot be read from stdin: name a file, a folder or an address")
        return DataSet(source, self.columns(), self._shard())

    def parts(self, target: str, options: Mapping[str, Any], patience: float, report: Report) -> Parts:
        """Return the folder OUT as what keeps the records."""
        from ..batch.parts import Flush, Parts
        from ..batch.storage import Address

        return Parts(
            Address.of(target),
            self._shard(),
            options={**options, **self.columns().options},
            kind=self.part_format,
            max_attempts=self.max_attempts,
            retry_quarantined=self.retry_quarantined,
            flush=Flush(seconds=self.part_seconds, patience_seconds=patience),
            report=report,
        )

    def _shard(self) -> Shard:
        from ..batch.dataset import Shard

        text = self.shard or "0/1"
        if text.startswith("/"):
            if _INDEX not in os.environ:
                raise OptionError(f"--shard {text}: {_INDEX} is not set: give I/N")
            text = os.environ[_INDEX] + text
        match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
        if not match:
            raise OptionError(f"--shard takes I/N, such as 0/4, or /4, got {text!r}")
        return Shard(int(match[1]), int(match[2]))


def is_folder(target: str) -> bool:
    """Whether OUT is a folder: it ends with a slash, is one, or is elsewhere."""
    return target != "-" and (target.endswith("/") or bool(scheme_of(target)) or Path(target).is_dir())


def _is_data(source: str) -> bool:
    is_pattern = bool(re.search(r"[*?\[{]", source)) and not Path(source).exists()
    suffixes = (".parquet", ".arrow", ".tar", ".tgz", ".tar.gz", ".csv")
    return is_pattern or Path(source).is_dir() or source.lower().endswith(suffixes)


@click.argument("folder", metavar="OUT")
@click.argument("into", metavar="INTO")
@click.option("--ordered", is_flag=True, help="Records in the order of the data set, not of their ids.")
def merge(folder: str, into: str, ordered: bool) -> None:
    """Write the parts in the folder OUT as one file INTO, .jsonl or .parquet.

    Each row has one record: an answer, if any part has one, else its error.
    """
    with exit_codes():
        from ..batch.merge import merge as merge_parts
        from ..batch.storage import Address

        number = merge_parts(Address.of(folder), Address.of(into), ordered=ordered)
        note(f"{number} records")


@click.argument("folder", metavar="OUT")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@takes(report=ReportOptions)
def status(folder: str, as_json: bool, report: ReportOptions) -> None:
    """Say how far the job is that writes to the folder OUT, and what all its workers took together."""
    with exit_codes():
        from ..batch.merge import read_state
        from ..batch.report_file import table, write
        from ..batch.storage import Address

        state = read_state(Address.of(folder), num_gpus=report.gpus)
        if report.path:
            if state.report is None:
                raise OptionError(f"{name_of(folder)} has no report of a run: name the folder that a batch wrote")
            write(report.path, state.report, title=f"video-llava batch {name_of(folder)}")
        if as_json:
            echo_json(vars(state))
            return
        click.echo("\n".join(_lines(state)))
        if state.report:
            click.echo(as_text(table(state.report | {"errors": {}})))


def _lines(state: Any) -> Iterator[str]:
    yield f"{state.num_answered} answered, {state.num_retried} to be asked again, {state.num_quarantined} quarantined"
    for name, number in state.errors.most_common():
        found = state.examples[name]
        yield f"  {number} {name}: {', '.join(found)}{', …' * (number > len(found))}"
    for name, shard in sorted(state.shards.items()):
        rows = f"of {shard['num_rows']} rows, read to the end" if shard["is_read"] else "records, not read to the end"
        yield f"  shard {name}: {shard['num_records']} {rows}"
