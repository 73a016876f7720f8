"""Measure the accuracy of a checkpoint by type of question, on combinations that its training never showed.

    PYTHONPATH=tests python -m tiny.evaluate CHECKPOINT [--num-cases 100] [--seed 1]
    PYTHONPATH=tests python -m tiny.evaluate CHECKPOINT --server localhost:8001

An answer is right if it is the expected one to the letter. With `--server`, the server answers from MP4 and JPEG
files, and each answer is compared with the reference's on the same files.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils import logging
from video_llava_client import VideoLlava

from .answering import Answerer
from .exam import EXAM_SEED, NUM_CASES, Result, sit_exam
from .serving import ComparedAnswers, MediaFolder, ServerAnswers

# Groups whose questions are counted together as well.
_TOTALS = {"video and image": ("video", "image"), "two shapes": ("two in a video", "two in an image")}


def table(results: Sequence[Result]) -> str:
    """A row for each kind of question, then the totals.

    The last column is the accuracy of always giving the most common of the expected answers.
    """
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        rows.setdefault((result.group, result.kind), []).append(result)
    for name, groups in _TOTALS.items():
        rows[name, "all"] = [result for result in results if result.group in groups]
    head = f"{'':<16} {'question':<16} {'n':>5} {'right %':>8} {'commonest %':>12}"
    return "\n".join([head, *(_line(*name, counted) for name, counted in rows.items() if counted)])


def _line(group: str, kind: str, results: Sequence[Result]) -> str:
    right = sum(result.is_right for result in results) / len(results)
    commonest = Counter(result.expected for result in results).most_common(1)[0][1] / len(results)
    return f"{group:<16} {kind:<16} {len(results):>5} {100 * right:>8.1f} {100 * commonest:>12.1f}"


def command(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Hugging Face files")],
    server: Annotated[str | None, typer.Option(help="host:port of a server of this checkpoint in float32")] = None,
    num_cases: Annotated[int, typer.Option(min=1, help="Questions of each type")] = NUM_CASES,
    seed: Annotated[int, typer.Option(help="Another seed asks about other scenes")] = EXAM_SEED,
    threads: Annotated[int, typer.Option(help="Cores to use")] = 2,
) -> None:
    """Print the table of right answers."""
    logging.disable_progress_bar()
    torch.set_num_threads(threads)
    started = time.perf_counter()
    reference = Answerer(checkpoint)
    if server is None:
        results = sit_exam(reference, num_cases=num_cases, seed=seed)
    else:
        results = _sit_exam_on_server(server, reference, num_cases=num_cases, seed=seed)
    typer.echo(table(results))
    typer.echo(f"{time.perf_counter() - started:.0f} s", err=True)


def _sit_exam_on_server(url: str, reference: Answerer, *, num_cases: int, seed: int) -> list[Result]:
    """Let the server at `url` answer from files, and print where it differs from the reference."""
    with VideoLlava(url) as client, tempfile.TemporaryDirectory() as folder:
        compared = ComparedAnswers(ServerAnswers(client, MediaFolder(Path(folder))), reference)
        results = sit_exam(compared, num_cases=num_cases, seed=seed)
    for prompt, ours, theirs in compared.different:
        typer.echo(f"different: {prompt!r}: {ours!r}, the reference: {theirs!r}", err=True)
    num_equal = compared.num_compared - len(compared.different)
    typer.echo(f"{num_equal} of {compared.num_compared} answers are the reference's on the same files")
    return results


if __name__ == "__main__":
    typer.run(command)
