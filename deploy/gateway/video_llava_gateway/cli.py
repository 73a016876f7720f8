"""The command `video-llava-gateway`."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
import uvicorn
from pydantic import TypeAdapter, ValidationError
from video_llava_client import AsyncVideoLlava, MediaLimits, OptionError, SourcePolicy
from video_llava_client.cli.options import ConnectionOptions, expanded
from video_llava_client.cli.output import exit_codes
from video_llava_client.settings import check_seconds

from .app import Gateway
from .connections import Server
from .keys import KeyFile, Name, new_key
from .settings import GatewaySettings

_MEGABYTE = 2**20
_TOO_OPEN = (
    "without --keys this port would be open to everybody: make a key with `video-llava-gateway key NAME`, listen on "
    "127.0.0.1, or say --no-keys if something else guards it"
)


@dataclass(frozen=True)
class GatewayConnectionOptions(ConnectionOptions):
    """As for the client; whoever asks the gateway is told when to try again, so it asks each replica once."""

    timeout: Annotated[float, typer.Option(help="Seconds that an answer may take.")] = GatewaySettings.timeout_seconds
    attempts: Annotated[
        int, typer.Option(help="How often to ask a server that is full or not reachable; 0: once for each address.")
    ] = 0

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `AsyncVideoLlava`."""
        # A name may stand for several servers.
        num_addresses = self.url.count(",") + 1 + self.url.startswith("dns:")
        return super(type(self), replace(self, attempts=self.attempts or num_addresses)).arguments()


def serve(
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 is any free one.")] = 8080,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys; read again when it changes. See `video-llava-gateway key`.")
    ] = None,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Listen beyond this machine without keys.")] = False,
    served_model_name: Annotated[
        list[str] | None, typer.Option(help="The model's name in requests; repeatable. Default: --model.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="For requests that name none.")] = GatewaySettings.temperature,
    images_as_video: Annotated[
        bool, typer.Option(help="Two or more images of a message are frames of one video.")
    ] = False,
    max_body_bytes: Annotated[int, typer.Option(help="Of one request.")] = GatewaySettings.max_body_bytes,
    max_buffered_bytes: Annotated[
        int, typer.Option(help="Of all requests that are read or decoded at a time; memory is about four times this.")
    ] = GatewaySettings.max_buffered_bytes,
    body_seconds: Annotated[float, typer.Option(help="For reading a request.")] = GatewaySettings.body_seconds,
    decode_seconds: Annotated[float, typer.Option(help="For decoding one video or image.")] = 60.0,
    isolated: Annotated[bool, typer.Option(help="Decode in processes with limits on time, CPU and memory.")] = True,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help='Media may be http(s) addresses of this host, or of "*.example.org"; repeatable.'),
    ] = None,
    allow_private_networks: Annotated[
        bool, typer.Option("--allow-private-networks", help="Such a host may be in a private network.")
    ] = False,
    max_connections: Annotated[int, typer.Option(help="Open at a time.")] = 512,
    idle_seconds: Annotated[float, typer.Option(help="For a connection without a whole request's head.")] = 30.0,
    cache_megabytes: Annotated[int, typer.Option(help="For decoded frames.")] = GatewaySettings.cache_bytes
    // _MEGABYTE,
    drain_seconds: Annotated[float, typer.Option(help="For running requests, after SIGTERM.")] = 60.0,
    ssl_certfile: Annotated[Path | None, typer.Option(help="PEM file of this server's certificate: HTTPS.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="PEM file of its key.")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="The access log as JSON.")] = False,
    *,
    connection: GatewayConnectionOptions,
) -> None:
    """Serve an OpenAI-style HTTP API for a running Triton."""
    with exit_codes():
        if keys is None and not no_keys and not _is_loopback(host):
            raise OptionError(f"--host {host}: {_TOO_OPEN}")
        check_seconds("--idle-seconds", idle_seconds)
        settings = GatewaySettings(
            model_names=tuple(served_model_name or [connection.model]),
            temperature=temperature,
            timeout_seconds=connection.timeout,
            body_seconds=body_seconds,
            max_body_bytes=max_body_bytes,
            max_buffered_bytes=max_buffered_bytes,
            cache_bytes=cache_megabytes * _MEGABYTE,
            allows_addresses=bool(allow_host),
            images_as_video=images_as_video,
        )
        sources = SourcePolicy.untrusted(hosts=allow_host or (), allow_private_networks=allow_private_networks)
        limits = MediaLimits(timeout_seconds=decode_seconds, max_bytes=max_body_bytes, sources=sources)
        client = AsyncVideoLlava(**connection.arguments(), media_limits=limits, isolated=isolated)
        gateway = Gateway(client, settings, keys=_read_keys(keys), log_json=log_json)
        config = uvicorn.Config(
            gateway.door,
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            server_header=False,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=ssl_keyfile,
        )
        server = Server(
            config,
            door=gateway.door,
            metrics=gateway.metrics,
            close_client=client.close,
            drain_seconds=drain_seconds,
            max_connections=max_connections,
            idle_seconds=idle_seconds,
        )
        _log(as_json=log_json)
        _raise_file_limit()
        server.run()


def key(name: Annotated[str, typer.Argument(help="Who gets it: letters, digits, '_' and '-'.")]) -> None:
    """Make an API key, and print it and the line for the file of --keys. Only its hash is kept."""
    with exit_codes():
        try:
            TypeAdapter(Name).validate_python(name)
        except ValidationError as exc:
            raise OptionError(f"NAME must have at most 64 letters, digits, '_' and '-', got {name!r}") from exc
        made, sha256 = new_key()
        typer.echo(f"key: {made}")
        typer.echo(f'{name} = {{ sha256 = "{sha256}" }}')


app = typer.Typer(
    name="video-llava-gateway",
    help="An OpenAI-style HTTP API before a Triton server of Video-LLaVA.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(name="serve")(expanded(serve))
app.command(name="key")(key)


def main() -> None:
    """Run the command line."""
    # Otherwise gRPC writes lines of its own about connections.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_keys(path: Path | None) -> KeyFile | None:
    try:
        return None if path is None else KeyFile(path)
    except (OSError, ValueError) as exc:
        raise OptionError(f"--keys {path}: cannot be read: {exc}") from exc


def _raise_file_limit() -> None:
    # A TLS connection is not among those that are counted until its handshake has ended.
    with suppress(ImportError, ValueError, OSError):
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log(*, as_json: bool) -> None:
    """Write the access log to stdout, all else to stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s" if as_json else "%(asctime)s %(message)s"))
    log = logging.getLogger("video_llava_gateway.access")
    log.addHandler(handler)
    log.propagate = False
