"""`video-llava evaluate`: the questions of a benchmark, answered as the scripts that score them read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

from ..benchmarks import SYSTEM, Benchmark, contains_answer, dump
from ..errors import OptionError
from .batch import PaceOptions, answer_file
from .data import ReportOptions
from .options import ConnectionOptions, DecodingOptions, SamplingOptions, option, takes
from .output import SOME_FAILED, exit_codes, note

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class _SamplingOptions(SamplingOptions):
    """As in the original's evaluation."""

    max_tokens: int = option("--max-tokens", default=1024, help="Longest answer, in tokens.")


@click.argument("questions", type=_PATH)
@click.argument("answers", type=_PATH, required=False)
@click.option("--videos", type=_PATH, required=True, help="Folder with the videos, named as in QUESTIONS.")
@click.option(
    "--into",
    type=_PATH,
    required=True,
    help="File of the predictions: .jsonl for Video-LLaVA's script, .json for Video-ChatGPT's.",
)
@click.option("--system", default=SYSTEM, help="Text before each question; '' for none.")
@takes(pace=PaceOptions, decoding=DecodingOptions, sampling=_SamplingOptions, connection=ConnectionOptions)
def evaluate(
    questions: Path,
    answers: Path | None,
    videos: Path,
    into: Path,
    system: str,
    pace: PaceOptions,
    decoding: DecodingOptions,
    sampling: SamplingOptions,
    connection: ConnectionOptions,
) -> None:
    """Answer the questions of a video benchmark, for the scripts that score them.

    QUESTIONS and ANSWERS are test_q.json and test_a.json of MSVD-QA, MSRVTT-QA, TGIF-QA or ActivityNet-QA. Or QUESTIONS
    alone is generic_qa.json, temporal_qa.json or consistency_qa.json of Video-ChatGPT's benchmark.

    Beside the predictions are the lines and the records of a batch (.questions.jsonl and .records.jsonl). The same
    command asks the questions that have no record, and those whose video was missing.
    """
    with exit_codes():
        benchmark = Benchmark.read(questions, answers)
        as_lines = _is_lines(into, benchmark)
        if not videos.is_dir():
            raise OptionError(f"--videos {videos} is not a folder: check the name")
        source, records = into.with_suffix(".questions.jsonl"), into.with_suffix(".records.jsonl")
        if into.exists() and not records.exists():
            raise OptionError(f"{into} exists, without {records.name} beside it: name another file, or remove it")
        _write(source, (json.dumps(line).encode() + b"\n" for line in benchmark.lines(videos, system)))
        answer_file(
            str(source), str(records), False, None, ReportOptions(None, None), pace, decoding, sampling, connection
        )
        predictions = benchmark.predictions(_texts(records), as_lines=as_lines)
        _write(into, [dump(predictions, as_lines=as_lines)])
        note(f"{into}: {len(predictions)} predictions for {len(benchmark.samples)} entries")
        if benchmark.has_short_answers:
            num_right = sum(map(contains_answer, predictions))
            note(f"{num_right} of them contain the answer word for word; that is not the score of the papers")
        if len(predictions) < len(benchmark.samples):
            note(f"the errors of the others are in {records}; the same command asks for missing videos again")
            sys.exit(SOME_FAILED)


def _is_lines(into: Path, benchmark: Benchmark) -> bool:
    """Whether the predictions are to be an object a line."""
    endings = (".jsonl", ".json") if benchmark.has_short_answers else (".json",)
    if into.suffix not in endings:
        raise OptionError(f"{into} must end in {' or '.join(endings)}, which the scripts of this benchmark read")
    return into.suffix == ".jsonl"


def _texts(records: Path) -> dict[int, str]:
    with records.open("rb") as file:
        found = map(json.loads, file)
        return {record["line"]: record["text"] for record in found if "text" in record}


def _write(path: Path, parts: Iterable[bytes]) -> None:
    try:
        with path.open("wb") as file:
            file.writelines(parts)
    except OSError as exc:
        raise OptionError(f"{path} cannot be written ({exc.strerror}): name another file") from exc
