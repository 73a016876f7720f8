"""Measure the accuracy of a checkpoint by type of question, on combinations that its training never showed.

    PYTHONPATH=tests python -m tiny.evaluate CHECKPOINT [--num-cases 100] [--seed 1]
    PYTHONPATH=tests python -m tiny.evaluate CHECKPOINT --server localhost:8001

An answer is right if it is the expected one to the letter. With `--server`, the server answers from MP4 and JPEG
files, and each answer is compared with the reference's on the same files.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers.utils import logging
from video_llava_client import VideoLlava

from .answering import Answerer
from .exam import EXAM_SEED, NUM_CASES, Result, sit_exam
from .report import table
from .serving import ComparedAnswers, MediaFolder, ServerAnswers

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
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
    sys.exit(app())
