"""`video-llava-export`: a checkpoint becomes a model folder.

video-llava-export CHECKPOINT --into DIR     write DIR/ID
video-llava-export check DIR/ID              is it what its export wrote?
video-llava-export convert OLD --into DIR    write a repository of format 1 as a model folder
video-llava-export verify CHECKPOINT MEDIA…  does a server answer as the checkpoint's own model does?

Exit codes: 0 done, 1 the disk failed or an answer differs, 2 bad input or a damaged model.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers.utils import logging
from typer.core import TyperGroup
from video_llava_client import Clip, Conventions, VideoLlavaError
from video_llava_server.manifest import ModelFolderError

from .check import check
from .checkpoint import Checkpoint, open_checkpoint
from .comparison import Case, GreedyAnswer, compare, format_table, make_cases
from .conversion import convert
from .errors import ExportError, OptionError, ParityError
from .exporter import ExportOptions, export
from .graph import Precision
from .language_model import Dtype
from .original_reference import load_reference
from .parity_report import ParityReport, load_answers, save_answers
from .profiles import Hardware
from .progress import Progress
from .reference import ReferenceDtype
from .served_model import ServedModel


class ExportByDefault(TyperGroup):
    """The common call needs no command: a first word that is none is the checkpoint."""

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
    help="video-llava-export CHECKPOINT --into DIR writes a checkpoint as a model folder DIR/ID.",
)
Into = Annotated[Path, typer.Option(help="Where model folders lie, side by side; made if absent", file_okay=False)]
ModelId = Annotated[
    str | None,
    typer.Option("--id", help="Name of the new folder. Default: the checkpoint's name and digits of the content"),
]
VideoTower = Annotated[
    Path | None,
    typer.Option(
        help="Of the original layout: the folder of LanguageBind_Video_merge. Default: in CHECKPOINT, or beside it",
        file_okay=False,
        exists=True,
    ),
]
ImageTower = Annotated[Path | None, typer.Option(help="The same, of LanguageBind_Image", file_okay=False, exists=True)]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub's repository")]
Adapter = Annotated[
    str | None, typer.Option(metavar="DIR", help="A PEFT adapter (LoRA, DoRA) of CHECKPOINT: it is merged into it")
]
Base = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="What CHECKPOINT was trained from, a folder or a hub repository: gives the tokenizer, the preprocessor "
        "and the configs that CHECKPOINT lacks",
    ),
]


@app.command("export")
def export_command(
    checkpoint: Annotated[
        str, typer.Argument(help="A folder, or a repository of the hub: LanguageBind/Video-LLaVA-7B-hf")
    ],
    into: Into,
    model_id: ModelId = None,
    encoder_precision: Annotated[
        Precision | None,
        typer.Option(
            help="fp32: exact. fp16: for GPUs, half the memory. int8: a quarter of it, for CPUs; least exact. "
            "Default: fp16 with a --profile of GPUs, else fp32"
        ),
    ] = None,
    llm_dtype: Annotated[
        Dtype,
        typer.Option(
            help="Convert the language model. int8: W8A8, int4: W4A16, for CPUs and GPUs. "
            "Quantised ones (AWQ, GPTQ, compressed-tensors) are kept"
        ),
    ] = Dtype.KEEP,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="HARDWARE",
            help="What will serve it: 24gb (one GPU), 2x24gb (two), cpu. Computes vLLM's tensor_parallel_size, "
            "kv_cache_memory_bytes, max_model_len and others, and says why",
        ),
    ] = None,
    vllm_arguments: Annotated[
        str, typer.Option(help="""JSON of further vLLM engine arguments: '{"dtype": "float32"}'; they beat --profile""")
    ] = "{}",
    probe: Annotated[
        Path | None, typer.Option(help="A video whose frames the encoders are compared on. Default: random pixels")
    ] = None,
    adapter: Adapter = None,
    base: Base = None,
    revision: Revision = None,
    video_tower: VideoTower = None,
    image_tower: ImageTower = None,
) -> None:
    """Write CHECKPOINT as the model folder DIR/ID, verified. A model folder is never written again."""
    arguments = parse_vllm_arguments(vllm_arguments)
    hardware = None if profile is None else Hardware.parse(profile)
    towers = _towers(video_tower, image_tower)
    opened = open_checkpoint(checkpoint, revision=revision, adapter=adapter, base=base, towers=towers)
    options = ExportOptions(
        model_id=model_id,
        precision=encoder_precision or (Precision.FP16 if hardware and hardware.num_gpus else Precision.FP32),
        dtype=llm_dtype,
        hardware=hardware,
        engine_arguments=arguments,
        probe_frames=None if probe is None else _read_frames(probe, opened),
    )
    exported = export(opened, into, options=options, progress=_progress())
    if exported.differences:  # none where every part is an earlier export's
        typer.echo(format_table(exported.differences))
    _say_next(exported.folder)


@app.command("convert")
def convert_command(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="A model repository of format 1", file_okay=False)],
    into: Into,
    model_id: ModelId = None,
) -> None:
    """Write the model of OLD, in which code lay beside the weights, as the model folder DIR/ID. OLD stays as it is."""
    _say_next(convert(old, into, model_id=model_id, progress=_progress()))


@app.command("check")
def check_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR/ID", help="A model folder", file_okay=False)],
    hashes: Annotated[bool, typer.Option(help="Hash every file; without, only sizes are compared")] = True,
) -> None:
    """Say which model DIR/ID holds and whether it is what its export wrote. Loads no model."""
    checked = check(folder, hashes=hashes, progress=_progress())
    typer.echo(checked.summary)
    if checked.problems:
        raise ModelFolderError("\n  ".join((f"{folder} is damaged:", *checked.problems)))
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
        typer.Option(help="Ask the server only and keep its answers here, if memory does not hold both sides"),
    ] = None,
    recorded: Annotated[
        Path | None, typer.Option(help="Compare the answers that --record kept, instead of a server's", dir_okay=False)
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where to write the report as JSON")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Where to write the report as Markdown")] = None,
    adapter: Adapter = None,
    base: Base = None,
    revision: Revision = None,
    video_tower: VideoTower = None,
    image_tower: ImageTower = None,
) -> None:
    """Ask a server and Hugging Face's own model about the same files, and say how far apart they are.

    Exit code 1 if an answer differs by more than rounding explains.
    """
    if (server is None) == (recorded is None) or (record is not None and server is None):
        raise ParityError("give the running server as --server host:port, or answers as --recorded FILE")
    cases = make_cases(media, question or ["Describe it in detail."])
    answers = _server_answers(cases, server, recorded, max_tokens=max_tokens, timeout_seconds=timeout)
    if record is not None:
        save_answers(record, cases, answers)
        typer.echo(f"Next: stop the server, then the same command with --recorded {record} instead of --server")
        return
    towers = _towers(video_tower, image_tower)
    opened = open_checkpoint(checkpoint, revision=revision, adapter=adapter, base=base, towers=towers)
    reference = load_reference(opened, dtype=dtype)
    compared = tuple(
        compare(case, answer, reference.answer(case, max_tokens=max_tokens))
        for case, answer in zip(cases, answers, strict=True)
    )
    report = ParityReport(opened.source, server or str(recorded), dtype, max_tokens, compared)
    typer.echo(report.as_markdown(), nl=False)
    for path, text in ((json_file, report.as_json()), (markdown, report.as_markdown())):
        if path is not None:
            path.write_text(text, encoding="utf-8")
    if not report.holds:
        raise typer.Exit(1)


def _server_answers(
    cases: list[Case], server: str | None, recorded: Path | None, *, max_tokens: int, timeout_seconds: float
) -> list[GreedyAnswer]:
    if server is None:
        assert recorded is not None
        return load_answers(recorded, cases)
    with ServedModel(server, timeout_seconds=timeout_seconds) as model:
        return [model.answer(case, max_tokens=max_tokens) for case in cases]


def _towers(video: Path | None, image: Path | None) -> dict[str, Path]:
    return {medium: folder for medium, folder in (("video", video), ("image", image)) if folder is not None}


def _say_next(folder: Path) -> None:
    typer.echo(f"\nNext: video-llava-serve --model {folder}")


def _progress() -> Progress:
    return Progress(lambda line: typer.echo(line, err=True), bars=sys.stderr.isatty())


def _read_frames(video: Path, checkpoint: Checkpoint) -> Any:
    config = checkpoint.config
    return Clip.load(video, size=config.image_size, conventions=Conventions.from_facts(config.conventions)).frames


def parse_vllm_arguments(text: str) -> dict[str, Any]:
    """The JSON object of `--vllm-arguments`; `OptionError` for anything else."""
    try:
        arguments = json.loads(text)
    except ValueError as exc:
        raise OptionError(f"--vllm-arguments {text!r} is not JSON ({exc}); give an object") from exc
    if not isinstance(arguments, dict):
        raise OptionError(f"""--vllm-arguments {text!r} is no object; write it like '{{"dtype": "float32"}}'""")
    if "model" in arguments:
        raise OptionError(f"--vllm-arguments names the model {arguments['model']!r}; the server sets it, leave it out")
    return arguments


def main() -> None:
    """The console script: bad input is one line on stderr and exit code 2, a failing disk the same with 1."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # As Ctrl-C does, so that a stopped container leaves no half-written folder behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except (ExportError, ModelFolderError, VideoLlavaError) as exc:
        typer.echo(f"video-llava-export: {exc}", err=True)
        sys.exit(2)
    except OSError as exc:  # a full disk, a folder of someone else
        typer.echo(f"video-llava-export: {exc}", err=True)
        sys.exit(1)
