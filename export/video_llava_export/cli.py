"""`video-llava-export`: a checkpoint becomes the weights of a Triton model repository.

video-llava-export CHECKPOINT --into DIR     write
video-llava-export check DIR                 is DIR what its export wrote?
video-llava-export verify CHECKPOINT MEDIA…  does a server answer as the checkpoint's own model does?

Exit codes: 0 done, 1 the disk failed or an answer differs, 2 bad input or a damaged repository.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers.utils import logging
from typer.core import TyperGroup
from video_llava_client import Clip, VideoLlavaError

from .check import check
from .checkpoint import Checkpoint, open_checkpoint
from .errors import ExportError, ParityError, RepositoryError
from .exporter import ExportOptions, export
from .graph import Precision
from .language_model import Dtype
from .parity import ParityReport, compare, load_answers, make_cases, save_answers
from .parity_reference import ReferenceDtype, ReferenceSide
from .parity_server import ServerSide
from .profiles import Hardware
from .progress import Progress
from .verification import format_table


class ExportByDefault(TyperGroup):
    """Takes the first word for a checkpoint where it is no command: the common call needs none."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `export` before arguments that name no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["export", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=ExportByDefault,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="video-llava-export CHECKPOINT --into DIR writes a checkpoint into a Triton model repository.",
)


@app.command("export")
def export_command(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, or a repository of the hub: LanguageBind/Video-LLaVA-7B-hf")
    ],
    into: Annotated[Path, typer.Option(help="The model repository; made if it is not there", file_okay=False)],
    encoder_precision: Annotated[
        Precision,
        typer.Option(help="fp32: exact. fp16: for GPUs, half the memory. int8: a quarter of it, for CPUs; least exact"),
    ] = Precision.FP32,
    llm_dtype: Annotated[
        Dtype,
        typer.Option(
            help="Convert the language model. int8: W8A8, for CPUs. "
            "Quantised ones (AWQ, GPTQ, compressed-tensors) are kept"
        ),
    ] = Dtype.KEEP,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="HARDWARE",
            help="What will serve it: 24gb (a GPU), 2x24gb (two), cpu. Writes vLLM's tensor_parallel_size, "
            "gpu_memory_utilization and max_model_len into vicuna/1/model.json, and says why",
        ),
    ] = None,
    vllm_arguments: Annotated[
        str,
        typer.Option(
            help="""JSON of further vLLM engine arguments for model.json: '{"dtype": "float32"}'; they beat --profile"""
        ),
    ] = "{}",
    probe: Annotated[
        Path | None,
        typer.Option(help="A video whose frames the encoders are compared on; random pixels unless given"),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub's repository")] = None,
) -> None:
    """Write the encoders and the language model of CHECKPOINT into a Triton model repository, verified.

    DIR is the old or the new model at any moment: it is replaced in one step at the end. Your own files in it stay; the
    models' code becomes this release's.
    """
    arguments = parse_vllm_arguments(vllm_arguments)
    hardware = None if profile is None else Hardware.parse(profile)
    opened = open_checkpoint(checkpoint, revision=revision)
    options = ExportOptions(
        precision=encoder_precision,
        dtype=llm_dtype,
        hardware=hardware,
        vllm_arguments=arguments,
        probe_frames=None if probe is None else _read_frames(probe, opened),
    )
    differences = export(opened, into, options=options, progress=_progress())
    typer.echo(format_table(differences))
    typer.echo(f"\nNext: video-llava-serve --repository {into}")


@app.command("check")
def check_command(
    repository: Annotated[Path, typer.Argument(metavar="DIR", help="A model repository", file_okay=False)],
    hashes: Annotated[bool, typer.Option(help="Hash every file; without, sizes are compared")] = True,
) -> None:
    """Is DIR what its export wrote? Says which model it holds; reads files, hashes, dims and ids, loads no model."""
    checked = check(repository, hashes=hashes, progress=_progress())
    typer.echo(checked.summary)
    if checked.problems:
        raise RepositoryError("\n  ".join((f"{repository} is damaged:", *checked.problems)))
    typer.echo("whole" if hashes else "whole, as far as sizes tell")


@app.command("verify")
def verify_command(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint that is served: a folder or a hub repository")],
    media: Annotated[list[Path], typer.Argument(help="Videos and images to ask about", exists=True, dir_okay=False)],
    server: Annotated[str | None, typer.Option(help="host:port of the server's gRPC service")] = None,
    question: Annotated[list[str] | None, typer.Option(help="Asked about each file; may be repeated")] = None,
    dtype: Annotated[
        ReferenceDtype, typer.Option(help="What the reference computes in: take the server's own")
    ] = ReferenceDtype.FLOAT32,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens")] = 48,
    timeout: Annotated[float, typer.Option(min=1, help="Longest wait for the server, in seconds")] = 300.0,
    record: Annotated[
        Path | None,
        typer.Option(help="Ask the server only, and keep its answers here: where memory does not hold both sides"),
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="Compare these answers, of --record, instead of a server's", dir_okay=False)
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write the report as JSON")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Where to write the report as Markdown")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub's repository")] = None,
) -> None:
    """Ask a server and Hugging Face's own model about the same files, and tell how far apart they are.

    Exit code 1 if an answer differs by more than rounding explains.
    """
    if (server is None) == (recorded is None) or (record is not None and server is None):
        raise ParityError("give the running server as --server host:port, or answers as --recorded FILE")
    cases = make_cases(media, question or ["Describe it in detail."])
    if server is not None:
        with ServerSide(server, timeout_seconds=timeout) as side:
            answers = [side.answer(case, max_tokens=max_tokens) for case in cases]
    else:
        assert recorded is not None
        answers = load_answers(recorded, cases)
    if record is not None:
        save_answers(record, cases, answers)
        typer.echo(f"Next: stop the server, then the same command with --recorded {record} instead of --server")
        return
    reference = ReferenceSide(open_checkpoint(checkpoint, revision=revision), dtype=dtype)
    compared = [
        compare(case, answer, reference.answer(case, max_tokens=max_tokens))
        for case, answer in zip(cases, answers, strict=True)
    ]
    report = ParityReport(checkpoint, server or str(recorded), dtype, max_tokens, tuple(compared))
    _write_report(report, json_file, markdown)
    if not report.holds:
        raise typer.Exit(1)


def _write_report(report: ParityReport, json_file: Path | None, markdown: Path | None) -> None:
    typer.echo(report.as_markdown(), nl=False)
    if json_file is not None:
        json_file.write_text(report.as_json(), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(report.as_markdown(), encoding="utf-8")


def _progress() -> Progress:
    return Progress(lambda line: typer.echo(line, err=True), bars=sys.stderr.isatty())


def _read_frames(video: Path, checkpoint: Checkpoint) -> Any:
    return Clip.from_file(video, size=checkpoint.config.image_size).frames


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
    except (ExportError, VideoLlavaError) as exc:
        typer.echo(f"video-llava-export: {exc}", err=True)
        sys.exit(2)
    except OSError as exc:  # a full disk, a folder of someone else
        typer.echo(f"video-llava-export: {exc}", err=True)
        sys.exit(1)
