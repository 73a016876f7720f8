"""The commands `video-llava-assemble`, `video-llava-tritonserver`, `video-llava-drain` and `video-llava-verify-log`."""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from .drain import announce, drain
from .log_file import FORM, ChainError, verify_chain
from .log_file import VARIABLE as LOG_VARIABLE
from .manifest import ModelFolderError
from .repository import ADMIN_HEADER, assemble, common_flags, new_admin_key
from .runtime_folder import VARIABLE

_EXIT_ENDED_SOME = 1
_EXIT_BAD_LOG = 1
_EXIT_BAD_INPUT = 2

Model = Annotated[Path, typer.Option(help="The folder that video-llava-export has written.", file_okay=False)]
Overlay = Annotated[Path | None, typer.Option(help="Files that replace this release's, such as vicuna/config.pbtxt.")]
Plans = Annotated[Path | None, typer.Option(help="TensorRT plans that replace the encoders' ONNX graphs.")]
ModelConfigName = Annotated[
    str,
    typer.Option(
        envvar="VIDEO_LLAVA_MODEL_CONFIG_NAME",
        help="Take configs/NAME.pbtxt of the models that have it, such as gpu. With --plans it is tensorrt.",
    ),
]
EngineArguments = Annotated[
    str, typer.Option(help="JSON of vLLM's engine arguments; they win over those that the export was told.")
]

AdminKey = Annotated[
    str,
    typer.Option(
        default_factory=new_admin_key,
        envvar="VIDEO_LLAVA_ADMIN_KEY",
        help="Opens model repository, shared memory, logging and trace settings to who sends it as the header "
        f"triton-grpc-protocol-{ADMIN_HEADER} (HTTP: {ADMIN_HEADER}). Unless given a random one: closed.",
    ),
]

RequestLogSetting = Annotated[
    str,
    typer.Option(
        envvar=LOG_VARIABLE,
        help=f"Log each request as a line of JSON: {FORM}, that is with prompts and answers, as a hash chain, "
        "rotated at a size, so many files of each model.",
    ),
]


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
    model: Model, into: Path, overlay: Overlay = None, plans: Plans = None, engine_arguments: EngineArguments = "{}"
) -> None:
    """Write the model repository for a tritonserver of your own."""
    try:
        arguments = parse_engine_arguments(engine_arguments)
        assemble(model, into, overlay=overlay, plans=plans, engine_arguments=arguments)
    except ModelFolderError as exc:
        typer.echo(f"{Path(sys.argv[0]).name}: {exc}", err=True)
        sys.exit(_EXIT_BAD_INPUT)


def _assemble_command(
    model: Model,
    into: Annotated[Path, typer.Option(help="A new folder.", file_okay=False)],
    overlay: Overlay = None,
    plans: Plans = None,
    engine_arguments: EngineArguments = "{}",
    model_config_name: ModelConfigName = "",
    *,
    admin_key: AdminKey,
) -> None:
    """Write the model repository that Triton loads: code of this release, weights by reference.

    For a tritonserver of your own, in whose environment this package is installed.
    """
    _assemble(model, into, overlay, plans, engine_arguments)
    typer.echo(f"Next: tritonserver {' '.join(_flags(into.resolve(), admin_key, model_config_name, plans))}")


def _flags(repository: Path, admin_key: str, model_config_name: str, plans: Path | None) -> list[str]:
    name = "tensorrt" if plans else model_config_name
    return common_flags(repository, admin_key=admin_key, model_config_name=name)


def _tritonserver_command(
    model: Model,
    triton_flags: Annotated[
        list[str] | None, typer.Argument(metavar="-- TRITON_FLAG", help="More flags; they come last and win.")
    ] = None,
    *,
    overlay: Overlay = None,
    plans: Plans = None,
    engine_arguments: EngineArguments = "{}",
    model_config_name: ModelConfigName = "",
    request_log: RequestLogSetting = "",
    admin_key: AdminKey,
) -> NoReturn:
    """Write the model repository into a temporary folder and become the tritonserver in PATH."""
    repository = Path(tempfile.mkdtemp(prefix="video-llava-repository-"))
    _assemble(model, repository, overlay, plans, engine_arguments)
    command = ["tritonserver", *_flags(repository, admin_key, model_config_name, plans), *(triton_flags or ())]
    os.environ[LOG_VARIABLE] = request_log
    os.execvp(command[0], command)


def _drain_command(
    runtime_dir: Annotated[
        Path,
        typer.Option(
            envvar=VARIABLE,
            exists=True,
            file_okay=False,
            writable=True,
            help="The folder that this variable names in the server's environment.",
        ),
    ],
    timeout_seconds: Annotated[
        float,
        typer.Option("--timeout-seconds", "--timeout", min=0, help="For running requests; then they fail."),
    ] = 60,
    announce_seconds: Annotated[
        float,
        typer.Option(
            "--announce-seconds",
            "--announce",
            min=0,
            help="First: not ready, but refusing nothing, so that proxies and Services send nothing more.",
        ),
    ] = 0,
) -> None:
    """Drain a server before its stop, in its own container: Kubernetes' preStop, before SIGTERM.

    The server is not ready any more (Triton 26.03 and later) and refuses new requests (UNAVAILABLE, "ask another
    server"). This command returns when all running requests have ended. Exit codes: 0 all finished, 1 some ended with
    an error after the timeout, 2 bad input. A drained server stays so until it is started again.
    """
    if announce_seconds:
        announce(runtime_dir, seconds=announce_seconds)
    began = time.monotonic()
    if not drain(runtime_dir, timeout_seconds=timeout_seconds):
        typer.echo(f"requests still ran after {timeout_seconds:g} s and were ended with an error", err=True)
        sys.exit(_EXIT_ENDED_SOME)
    typer.echo(f"drained after {time.monotonic() - began:.1f} s", err=True)


def _verify_log_command(
    log: Annotated[
        Path, typer.Argument(help="The newest file, such as DIR/vicuna.jsonl.", exists=True, dir_okay=False)
    ],
) -> None:
    """Check the hash chain of a request log, from its oldest file on. Exit codes: 0 whole, 1 not, 2 bad input.

    Lines that are missing at the end, and a log that was written anew as a whole, show only by the last line's hash:
    keep what this command prints elsewhere.
    """
    try:
        num_lines, last = verify_chain(log)
    except ChainError as exc:
        typer.echo(str(exc), err=True)
        sys.exit(_EXIT_BAD_LOG)
    typer.echo(f"{num_lines} lines, the last one's SHA-256 is {last}")


def assemble_command() -> None:
    """Entry point of `video-llava-assemble`."""
    typer.run(_assemble_command)


def tritonserver_command() -> None:
    """Entry point of `video-llava-tritonserver`."""
    typer.run(_tritonserver_command)


def drain_command() -> None:
    """Entry point of `video-llava-drain`."""
    typer.run(_drain_command)


def verify_log_command() -> None:
    """Entry point of `video-llava-verify-log`."""
    typer.run(_verify_log_command)
