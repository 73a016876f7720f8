"""The command `video-llava-serve`."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from video_llava_server.cli import AdminKey, RequestLogSetting, parse_engine_arguments
from video_llava_server.manifest import ModelFolderError

from ._errors import OptionError, ServeError, ServerDiedError, StartError
from ._restart import supervise
from ._server import LocalServer

_EXIT_FAILED = 1
_EXIT_BAD_INPUT = 2


def main() -> None:
    """Entry point of `video-llava-serve`."""
    typer.run(serve)


def serve(
    triton_flags: Annotated[
        list[str] | None, typer.Argument(metavar="-- TRITON_FLAG", help="More flags of tritonserver.")
    ] = None,
    *,
    model: Annotated[Path | None, typer.Option(help="The folder that video-llava-export has written.")] = None,
    repository: Annotated[
        Path | None, typer.Option(help="Instead of --model: a Triton model repository, served as it is.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Files that replace this release's, such as video_encoder/config.pbtxt.")
    ] = None,
    engine_arguments: Annotated[
        str, typer.Option(help="JSON of vLLM's engine arguments; they win over those that the export was told.")
    ] = "{}",
    http_port: Annotated[int, typer.Option(help="0: a free one, printed when ready.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0: a free one.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0: a free one.")] = 8002,
    host: Annotated[str, typer.Option(help="Address of all three ports; 0.0.0.0 opens them.")] = "127.0.0.1",
    http_address: Annotated[str | None, typer.Option(help="Instead of --host.")] = None,
    grpc_address: Annotated[str | None, typer.Option(help="Instead of --host.")] = None,
    metrics_address: Annotated[str | None, typer.Option(help="Instead of --host.")] = None,
    cache_megabytes: Annotated[int, typer.Option(help="RAM for features of media asked about; 0: none.")] = 512,
    start_timeout_seconds: Annotated[float, typer.Option(help="Until every model is ready.")] = 600,
    exit_timeout_seconds: Annotated[int, typer.Option(help="For requests in flight at the end.")] = 30,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file: gRPC with TLS, HTTP for health only.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file, the certificate's key.")] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(help="PEM file: clients must show what it has signed.")] = None,
    admin_key: AdminKey,
    otlp_endpoint: Annotated[
        str, typer.Option(help="OpenTelemetry collector for traces, as http://localhost:4318 (OTLP over HTTP).")
    ] = "",
    request_log: RequestLogSetting = "",
    log_file: Annotated[
        Path | None, typer.Option(help="Keep the server's log here; -: standard output, no file.")
    ] = None,
    restart: Annotated[bool, typer.Option(help="Restart dead processes: the server, a model, the engine.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show the server's log as well.")] = False,
) -> None:
    """Serve an exported Video-LLaVA with a real Triton on this machine's CPU, until Ctrl-C or SIGTERM."""
    # SIGINT too: a shell without job control starts its background commands with SIGINT ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    try:
        server = LocalServer(
            model=model,
            repository=repository,
            overlay=overlay,
            engine_arguments=_parse(engine_arguments),
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            http_address=http_address or host,
            grpc_address=grpc_address or host,
            metrics_address=metrics_address or host,
            cache_megabytes=cache_megabytes,
            start_timeout_seconds=start_timeout_seconds,
            exit_timeout_seconds=exit_timeout_seconds,
            tls_certificate=tls_certificate,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            admin_key=admin_key,
            otlp_endpoint=otlp_endpoint,
            request_log=request_log,
            triton_flags=tuple(triton_flags or ()),
            log_path=log_file,
            show_log=verbose,
            report=_report,
        )
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


def _parse(engine_arguments: str) -> dict[str, Any]:
    try:
        return parse_engine_arguments(engine_arguments)
    except ModelFolderError as exc:
        raise OptionError(str(exc)) from exc


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _report(line: str) -> None:
    typer.echo(line, err=True)


def _fail(error: ServeError, code: int) -> NoReturn:
    _report(f"video-llava-serve: {error}")
    sys.exit(code)
