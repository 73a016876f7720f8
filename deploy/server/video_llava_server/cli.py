"""The commands `video-llava-assemble`, `video-llava-tritonserver`, `video-llava-drain` and `video-llava-verify-log`."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

import click

from .drain import announce, drain
from .log_file import FORM, ChainError, verify_chain
from .log_file import VARIABLE as LOG_VARIABLE
from .lora import parse_loras
from .manifest import ModelFolderError
from .repository import ADMIN_HEADER, assemble, common_flags, new_admin_key
from .runtime_folder import VARIABLE

_EXIT_ENDED_SOME = 1
_EXIT_BAD_LOG = 1
_EXIT_BAD_INPUT = 2

_PATH = click.Path(path_type=Path)
_SETTINGS = {"show_default": True}

_model = click.option(
    "--model",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The folder that video-llava-export has written.",
)
_overlay = click.option("--overlay", type=_PATH, help="Files that replace this release's, such as vicuna/config.pbtxt.")
_plans = click.option("--plans", type=_PATH, help="TensorRT plans that replace the encoders' ONNX graphs.")
_model_config_name = click.option(
    "--model-config-name",
    default="",
    envvar="VIDEO_LLAVA_MODEL_CONFIG_NAME",
    show_envvar=True,
    help="Take configs/NAME.pbtxt of the models that have it, such as gpu. With --plans it is tensorrt.",
)
engine_arguments_option = click.option(
    "--engine-arguments",
    default="{}",
    help="JSON of vLLM's engine arguments; they win over those that the export was told.",
)
lora_option = click.option(
    "--lora",
    "lora",
    multiple=True,
    metavar="NAME=DIR",
    envvar="VIDEO_LLAVA_LORA",
    show_envvar=True,
    help="A LoRA adapter of the language model, PEFT's folder, that requests choose by name; repeatable.",
)
admin_key_option = click.option(
    "--admin-key",
    default=new_admin_key,
    envvar="VIDEO_LLAVA_ADMIN_KEY",
    show_envvar=True,
    help="Opens model repository, shared memory, logging and trace settings to who sends it as the header "
    f"triton-grpc-protocol-{ADMIN_HEADER} (HTTP: {ADMIN_HEADER}). Unless given a random one: closed.",
)
request_log_option = click.option(
    "--request-log",
    default="",
    envvar=LOG_VARIABLE,
    show_envvar=True,
    help=f"Log each request as a line of JSON: {FORM}, that is with prompts and answers, as a hash chain, "
    "rotated at a size, so many files of each model.",
)


def parse_engine_arguments(text: str) -> dict[str, Any]:
    """Return the JSON object of `--engine-arguments`. Raises ModelFolderError."""
    try:
        arguments = json.loads(text)
    except ValueError as exc:
        raise ModelFolderError(f"--engine-arguments {text!r} is not JSON ({exc}); give an object") from exc
    if not isinstance(arguments, dict) or "model" in arguments:
        raise ModelFolderError(
            f"--engine-arguments {text!r} must be an object without 'model', such as '{{\"dtype\": \"float32\"}}'"
        )
    return arguments


def _assemble(
    model: Path, into: Path, overlay: Path | None, plans: Path | None, lora: tuple[str, ...], engine_arguments: str
) -> None:
    """Write the model repository for a tritonserver of your own."""
    try:
        arguments, loras = parse_engine_arguments(engine_arguments), parse_loras(lora)
        assemble(model, into, overlay=overlay, plans=plans, loras=loras, engine_arguments=arguments)
    except ModelFolderError as exc:
        click.echo(f"{Path(sys.argv[0]).name}: {exc}", err=True)
        sys.exit(_EXIT_BAD_INPUT)


@click.command("video-llava-assemble", context_settings=_SETTINGS)
@_model
@click.option("--into", required=True, type=click.Path(path_type=Path, file_okay=False), help="A new folder.")
@_overlay
@_plans
@lora_option
@engine_arguments_option
@_model_config_name
@admin_key_option
def assemble_command(
    model: Path,
    into: Path,
    overlay: Path | None,
    plans: Path | None,
    lora: tuple[str, ...],
    engine_arguments: str,
    model_config_name: str,
    admin_key: str,
) -> None:
    """Write the model repository that Triton loads: code of this release, weights by reference.

    For a tritonserver of your own, in whose environment this package is installed.
    """
    _assemble(model, into, overlay, plans, lora, engine_arguments)
    click.echo(f"Next: tritonserver {' '.join(_flags(into.resolve(), admin_key, model_config_name, plans))}")


def _flags(repository: Path, admin_key: str, model_config_name: str, plans: Path | None) -> list[str]:
    name = "tensorrt" if plans else model_config_name
    return common_flags(repository, admin_key=admin_key, model_config_name=name)


@click.command("video-llava-tritonserver", context_settings=_SETTINGS)
@click.argument("triton_flags", metavar="[-- TRITON_FLAG...]", nargs=-1)
@_model
@_overlay
@_plans
@lora_option
@engine_arguments_option
@_model_config_name
@request_log_option
@admin_key_option
def tritonserver_command(
    triton_flags: tuple[str, ...],
    model: Path,
    overlay: Path | None,
    plans: Path | None,
    lora: tuple[str, ...],
    engine_arguments: str,
    model_config_name: str,
    request_log: str,
    admin_key: str,
) -> NoReturn:
    """Write the model repository into a temporary folder and become the tritonserver in PATH.

    Flags of Triton's come last and win.
    """
    repository = Path(tempfile.mkdtemp(prefix="video-llava-repository-"))
    _assemble(model, repository, overlay, plans, lora, engine_arguments)
    command = ["tritonserver", *_flags(repository, admin_key, model_config_name, plans), *triton_flags]
    os.environ[LOG_VARIABLE] = request_log
    os.execvp(command[0], command)


@click.command("video-llava-drain", context_settings=_SETTINGS)
@click.option(
    "--runtime-dir",
    required=True,
    envvar=VARIABLE,
    show_envvar=True,
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="The folder that this variable names in the server's environment.",
)
@click.option(
    "--timeout-seconds",
    "--timeout",
    "timeout_seconds",
    type=click.FloatRange(min=0),
    default=60,
    help="For running requests; then they fail.",
)
@click.option(
    "--announce-seconds",
    "--announce",
    "announce_seconds",
    type=click.FloatRange(min=0),
    default=0,
    help="First: not ready, but refusing nothing, so that proxies and Services send nothing more.",
)
def drain_command(runtime_dir: Path, timeout_seconds: float, announce_seconds: float) -> None:
    """Drain a server before its stop, in its own container: Kubernetes' preStop, before SIGTERM.

    The server is not ready any more (Triton 26.03 and later) and refuses new requests (UNAVAILABLE, "ask another
    server"). This command returns when all running requests have ended. Exit codes: 0 all finished, 1 some ended with
    an error after the timeout, 2 bad input. A drained server stays so until it is started again.
    """
    if announce_seconds:
        announce(runtime_dir, seconds=announce_seconds)
    began = time.monotonic()
    if not drain(runtime_dir, timeout_seconds=timeout_seconds):
        click.echo(f"requests still ran after {timeout_seconds:g} s and were ended with an error", err=True)
        sys.exit(_EXIT_ENDED_SOME)
    click.echo(f"drained after {time.monotonic() - began:.1f} s", err=True)


@click.command("video-llava-verify-log", context_settings=_SETTINGS)
@click.argument("log", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def verify_log_command(log: Path) -> None:
    """Check the hash chain of a request log, from its oldest file on; LOG is the newest, such as DIR/vicuna.jsonl.

    Exit codes: 0 whole, 1 not, 2 bad input.

    Lines that are missing at the end, and a log that was written anew as a whole, show only by the last line's hash:
    keep what this command prints elsewhere.
    """
    try:
        num_lines, last = verify_chain(log)
    except ChainError as exc:
        click.echo(str(exc), err=True)
        sys.exit(_EXIT_BAD_LOG)
    click.echo(f"{num_lines} lines, the last one's SHA-256 is {last}")
