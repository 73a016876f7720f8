"""The command `video-llava-gateway`."""

from __future__ import annotations

import ipaddress
import logging
import os
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import uvicorn
from pydantic import TypeAdapter, ValidationError
from video_llava_client import AsyncVideoLlava, DecoderProcesses, MediaLimits, OptionError, SourcePolicy
from video_llava_client.cli.options import SETTINGS, ConnectionOptions, option, takes
from video_llava_client.cli.output import exit_codes
from video_llava_client.settings import check_seconds

from .app import Gateway
from .connections import Server
from .file_store import FileStore
from .keys import KeyFile, Name, new_key
from .settings import GatewaySettings

_PATH = click.Path(path_type=Path)
_MEGABYTE = 2**20
_HOUR = 3600
_TOO_OPEN = (
    "without --keys this port would be open to everybody: make a key with `video-llava-gateway key NAME`, listen on "
    "127.0.0.1, or say --no-keys if something else guards it"
)


@dataclass(frozen=True)
class GatewayConnectionOptions(ConnectionOptions):
    """As for the client; whoever asks the gateway is told when to try again, so it asks each replica once."""

    timeout: float = option(
        "--timeout", default=GatewaySettings.timeout_seconds, help="Seconds that an answer may take."
    )
    attempts: int = option(
        "--attempts", default=0, help="How often to ask a server that is full or away; 0: once for each address."
    )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments for `AsyncVideoLlava`."""
        # A name may stand for several servers.
        num_addresses = self.url.count(",") + 1 + self.url.startswith("dns:")
        return ConnectionOptions.arguments(replace(self, attempts=self.attempts or num_addresses))


@dataclass(frozen=True)
class ListenOptions:
    """Who may connect, and how long."""

    host: str = option("--host", default="127.0.0.1", help="Where to listen.")
    port: int = option("--port", default=8080, help="0 is any free one.")
    keys: Path | None = option("--keys", type=_PATH, help="File of API keys; read again when it changes.")
    no_keys: bool = option("--no-keys", is_flag=True, help="Something else guards it: listen anywhere without keys.")
    host_name: tuple[str, ...] = option(
        "--host-name",
        multiple=True,
        help='Name, or "*.example.org", by which callers reach it; repeatable. Others are refused, but localhost and '
        "IP addresses. Default: any name with --keys or --no-keys, else none.",
    )
    ssl_certfile: Path | None = option("--ssl-certfile", type=_PATH, help="PEM file of the certificate: HTTPS.")
    ssl_keyfile: Path | None = option("--ssl-keyfile", type=_PATH, help="PEM file of its key.")
    max_connections: int = option("--max-connections", default=512, help="Open at a time.")
    idle_seconds: float = option("--idle-seconds", default=30.0, help="For a connection without a request's head.")
    drain_seconds: float = option("--drain-seconds", default=60.0, help="For running requests, after SIGTERM.")
    log_json: bool = option("--log-json", is_flag=True, help="The access log as JSON.")

    def check(self) -> None:
        """Raise OptionError if these cannot be used."""
        if self.keys is None and not self.no_keys and not _is_loopback(self.host):
            raise OptionError(f"--host {self.host}: {_TOO_OPEN}")
        check_seconds("--idle-seconds", self.idle_seconds)

    def host_names(self) -> tuple[str, ...] | None:
        """Return the names that a Host header may have; None: any."""
        return ("localhost", *self.host_name) if self.host_name or not (self.keys or self.no_keys) else None

    def key_file(self) -> KeyFile | None:
        """Return the keys."""
        try:
            return None if self.keys is None else KeyFile(self.keys)
        except (OSError, ValueError) as exc:
            raise OptionError(f"--keys {self.keys}: cannot be read: {exc}") from exc

    def server(self, gateway: Gateway, client: AsyncVideoLlava) -> Server:
        """Return what serves `gateway`."""
        config = uvicorn.Config(
            gateway.app,
            host=self.host,
            port=self.port,
            loop="asyncio",
            access_log=False,
            log_config=None,
            server_header=False,
            ssl_certfile=self.ssl_certfile,
            ssl_keyfile=self.ssl_keyfile,
        )
        return Server(
            config,
            middleware=gateway.app,
            metrics=gateway.metrics,
            close_client=client.close,
            drain_seconds=self.drain_seconds,
            max_connections=self.max_connections,
            idle_seconds=self.idle_seconds,
        )


@dataclass(frozen=True)
class RequestOptions:
    """What requests may be."""

    served_model_name: tuple[str, ...] = option(
        "--served-model-name", multiple=True, help="The model's name in requests; repeatable. Default: --model."
    )
    temperature: float = option(
        "--temperature", default=GatewaySettings.temperature, help="For requests that name none."
    )
    images_as_video: bool = option(
        "--images-as-video", is_flag=True, help="Two or more images of a message are frames of one video."
    )
    max_body_bytes: int = option("--max-body-bytes", default=GatewaySettings.max_body_bytes, help="Of one request.")
    max_buffered_bytes: int = option(
        "--max-buffered-bytes",
        default=GatewaySettings.max_buffered_bytes,
        help="Of all requests that are read or decoded at a time; memory is about four times this.",
    )
    body_seconds: float = option(
        "--body-seconds",
        default=GatewaySettings.body_seconds,
        help="For reading a request, or the next part of an upload.",
    )
    decode_seconds: float = option("--decode-seconds", default=60.0, help="For decoding one video or image.")
    isolated: bool = option(
        "--isolated/--no-isolated", default=True, help="Decode in processes with limits on time, CPU and memory."
    )
    decoders: int = option(
        "--decoders", type=click.IntRange(min=1), default=GatewaySettings.num_decoders, help="Such processes."
    )
    allow_host: tuple[str, ...] = option(
        "--allow-host",
        multiple=True,
        help='Media may be http(s) addresses of this host, or of "*.example.org"; repeatable.',
    )
    allow_private_networks: bool = option(
        "--allow-private-networks", is_flag=True, help="Such a host may be in a private network."
    )
    no_page: bool = option("--no-page", is_flag=True, help="Without the page at /.")
    cache_megabytes: int = option(
        "--cache-megabytes", default=GatewaySettings.cache_bytes // _MEGABYTE, help="For decoded frames."
    )

    def settings(self, connection: ConnectionOptions) -> GatewaySettings:
        """Return the gateway's settings."""
        return GatewaySettings(
            model_names=self.served_model_name or (connection.model,),
            temperature=self.temperature,
            timeout_seconds=connection.timeout,
            body_seconds=self.body_seconds,
            max_body_bytes=self.max_body_bytes,
            max_buffered_bytes=self.max_buffered_bytes,
            cache_bytes=self.cache_megabytes * _MEGABYTE,
            allows_addresses=bool(self.allow_host),
            images_as_video=self.images_as_video,
            num_decoders=self.decoders,
            has_page=not self.no_page,
        )

    def media_limits(self) -> MediaLimits:
        """Return what one medium may be."""
        sources = SourcePolicy.untrusted(hosts=self.allow_host, allow_private_networks=self.allow_private_networks)
        return MediaLimits(timeout_seconds=self.decode_seconds, max_bytes=self.max_body_bytes, sources=sources)


@dataclass(frozen=True)
class FileOptions:
    """What may be uploaded."""

    files_dir: Path | None = option(
        "--files-dir", type=_PATH, help="Take uploads at /v1/files, and keep them in this folder."
    )
    max_files_bytes: int = option("--max-files-bytes", default=20 * 2**30, help="Of all uploaded files.")
    max_file_bytes: int = option("--max-file-bytes", default=2 * 2**30, help="Of one of them.")
    file_hours: float = option(
        "--file-hours", default=GatewaySettings.file_seconds / _HOUR, help="How long each is kept at most."
    )
    upload_seconds: float = option(
        "--upload-seconds", default=GatewaySettings.upload_seconds, help="For one upload or download."
    )

    def store(self) -> FileStore | None:
        """Return where files are kept."""
        if self.files_dir is None:
            return None
        check_seconds("--file-hours", self.file_hours)
        check_seconds("--upload-seconds", self.upload_seconds)
        try:
            return FileStore(self.files_dir, max_bytes=self.max_files_bytes, max_file_bytes=self.max_file_bytes)
        except OSError as exc:
            raise OptionError(f"--files-dir {self.files_dir}: cannot be used: {exc}") from exc


@takes(listen=ListenOptions, requests=RequestOptions, uploads=FileOptions, connection=GatewayConnectionOptions)
def serve(
    listen: ListenOptions, requests: RequestOptions, uploads: FileOptions, connection: GatewayConnectionOptions
) -> None:
    """Serve an OpenAI-style HTTP API for a running Triton."""
    with exit_codes(), DecoderProcesses(requests.decoders) as decoders:
        listen.check()
        limits, keys = requests.media_limits(), listen.key_file()
        isolated = decoders if requests.isolated else False
        client = AsyncVideoLlava(**connection.arguments(), media_limits=limits, isolated=isolated)
        settings = replace(
            requests.settings(connection),
            file_seconds=uploads.file_hours * _HOUR,
            upload_seconds=uploads.upload_seconds,
            host_names=listen.host_names(),
        )
        gateway = Gateway(client, settings, keys=keys, files=uploads.store(), log_json=listen.log_json)
        _log(as_json=listen.log_json)
        _raise_file_limit()
        listen.server(gateway, client).run()


@click.argument("name")
def key(name: str) -> None:
    """Make an API key for NAME, and print it and the line for the file of --keys. Only its hash is kept."""
    with exit_codes():
        try:
            TypeAdapter(Name).validate_python(name)
        except ValidationError as exc:
            raise OptionError(f"NAME must have at most 64 letters, digits, '_' and '-', got {name!r}") from exc
        made, sha256 = new_key()
        click.echo(f"key: {made}")
        click.echo(f'{name} = {{ sha256 = "{sha256}" }}')


@click.group("video-llava-gateway", no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Put an OpenAI-style HTTP API before a Triton server of Video-LLaVA."""


app.command("serve")(serve)
app.command("key")(key)


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


def _raise_file_limit() -> None:
    # A connection may have files beside it: of an upload, and of what is decoded.
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
