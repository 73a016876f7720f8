"""The command `video-llava-serve`."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from video_llava_server.cli import (
    admin_key_option,
    engine_arguments_option,
    lora_option,
    parse_engine_arguments,
    request_log_option,
)
from video_llava_server.lora import parse_loras
from video_llava_server.manifest import ModelFolderError

from ._errors import OptionError, ServeError, ServerDiedError, StartError
from ._restart import supervise
from ._server import LocalServer

_EXIT_FAILED = 1
_EXIT_BAD_INPUT = 2

_PATH = click.Path(path_type=Path)


def main() -> None:
    """Entry point of `video-llava-serve`."""
    serve()


@click.command("video-llava-serve", context_settings={"show_default": True})
@click.argument("triton_flags", metavar="[-- TRITON_FLAG...]", nargs=-1)
@click.option("--model", type=_PATH, help="The folder that video-llava-export has written.")
@click.option("--repository", type=_PATH, help="Instead of --model: a Triton model repository, served as it is.")
@click.option("--overlay", type=_PATH, help="Files that replace this release's, such as video_encoder/config.pbtxt.")
@lora_option
@engine_arguments_option
@click.option("--http-port", default=8000, help="0: a free one, printed when ready.")
@click.option("--grpc-port", default=8001, help="0: a free one.")
@click.option("--metrics-port", default=8002, help="0: a free one.")
@click.option("--host", default="127.0.0.1", help="Address of all three ports; 0.0.0.0 opens them.")
@click.option("--http-address", help="Instead of --host.")
@click.option("--grpc-address", help="Instead of --host.")
@click.option("--metrics-address", help="Instead of --host.")
@click.option("--cache-megabytes", default=512, help="RAM for features of media asked about; 0: none.")
@click.option("--start-timeout-seconds", default=600.0, help="Until every model is ready.")
@click.option("--exit-timeout-seconds", default=30, help="For requests in flight at the end.")
@click.option("--tls-certificate", type=_PATH, help="PEM file: gRPC with TLS, HTTP for health only.")
@click.option("--tls-key", type=_PATH, help="PEM file, the certificate's key.")
@click.option("--tls-client-ca", type=_PATH, help="PEM file: clients must show what it has signed.")
@admin_key_option
@click.option(
    "--otlp-endpoint",
    default="",
    help="OpenTelemetry collector for traces, as http://localhost:4318 (OTLP over HTTP).",
)
@request_log_option
@click.option("--log-file", "log_path", type=_PATH, help="Keep the server's log here; -: standard output, no file.")
@click.option("--restart/--no-restart", default=True, help="Restart dead processes: the server, a model, the engine.")
@click.option("--verbose", "show_log", is_flag=True, help="Show the server's log as well.")
def serve(*, host: str, lora: tuple[str, ...], engine_arguments: str, restart: bool, **options: Any) -> None:
    """Serve an exported Video-LLaVA with a real Triton on this machine's CPU, until Ctrl-C or SIGTERM."""
    # SIGINT too: a shell without job control starts its background commands with SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    for name in ("http_address", "grpc_address", "metrics_address"):
        options[name] = options[name] or host
    try:
        arguments, loras = _parse(parse_engine_arguments, engine_arguments), _parse(parse_loras, lora)
        server = LocalServer(engine_arguments=arguments, loras=loras, report=_report, **options)
        _serve_until_interrupted(server, restart=restart)
    except (StartError, ServerDiedError) as exc:
        _fail(exc, _EXIT_FAILED)
    except ServeError as exc:
        _fail(exc, _EXIT_BAD_INPUT)
    if not server.stopped_cleanly:
        sys.exit(_EXIT_FAILED)


def _serve_until_interrupted(server: LocalServer, *, restart: bool) -> None:
    try:
        with server:
            if restart:
                supervise(server, report=_report)
            else:
                server.wait()
    except KeyboardInterrupt:
        _report("stopped" if server.stopped_cleanly else "stopped by force: see --exit-timeout-seconds")


def _parse(parse: Callable[[Any], dict[str, Any]], value: object) -> dict[str, Any]:
    try:
        return parse(value)
    except ModelFolderError as exc:
        raise OptionError(str(exc)) from exc


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _report(line: str) -> None:
    click.echo(line, err=True)


def _fail(error: ServeError, code: int) -> NoReturn:
    _report(f"video-llava-serve: {error}")
    sys.exit(code)
