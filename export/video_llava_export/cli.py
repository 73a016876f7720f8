"""`video-llava-export`: a checkpoint becomes the weights of a Triton model repository."""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers.utils import logging

from .checkpoint import open_checkpoint
from .errors import ExportError, RepositoryError
from .exporter import ExportOptions, export
from .verification import format_table

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def command(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, or a repository of the hub: LanguageBind/Video-LLaVA-7B-hf")
    ],
    into: Annotated[Path, typer.Option(help="The model repository; made if it is not there", file_okay=False)],
    vllm_arguments: Annotated[
        str, typer.Option(help="""JSON of vLLM engine arguments for vicuna/1/model.json: '{"dtype": "float32"}'""")
    ] = "{}",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub's repository")] = None,
) -> None:
    """Write the encoders and the language model of CHECKPOINT into a Triton model repository, verified."""
    options = ExportOptions(vllm_arguments=parse_vllm_arguments(vllm_arguments))
    opened = open_checkpoint(checkpoint, revision=revision)
    differences = export(opened, into, options=options, report=lambda line: typer.echo(line, err=True))
    typer.echo(format_table(differences))
    typer.echo(f"\nNext: video-llava-serve --repository {into}")


def parse_vllm_arguments(text: str) -> dict[str, Any]:
    """The JSON object of `--vllm-arguments`; `RepositoryError` for anything else."""
    try:
        arguments = json.loads(text)
    except ValueError as exc:
        raise RepositoryError(f"--vllm-arguments {text!r} is not JSON ({exc}); give an object") from exc
    if not isinstance(arguments, dict):
        raise RepositoryError(f"""--vllm-arguments {text!r} is no object; write it like '{{"dtype": "float32"}}'""")
    if "model" in arguments:
        raise RepositoryError(f"--vllm-arguments names the model {arguments['model']!r}; that is the export's to set")
    return arguments


def main() -> None:
    """The console script: bad input is one line on stderr and exit code 2, a failing disk the same with 1."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # As Ctrl-C does, so that a stopped container leaves no half-written model behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except ExportError as exc:
        typer.echo(f"video-llava-export: {exc}", err=True)
        sys.exit(2)
    except OSError as exc:  # a full disk, a folder of someone else
        typer.echo(f"video-llava-export: {exc}", err=True)
        sys.exit(1)
