"""What the server is asked to do, checked once."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from video_llava_server.repository import new_admin_key

from ._errors import OptionError

_ADMIN_KEY = re.compile(r"[A-Za-z0-9_-]{16,}")


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of one server; a wrong value raises `OptionError`."""

    model: Path | None = None
    """a model folder that `video-llava-export` has written"""
    repository: Path | None = None
    """instead of a model folder: a Triton model repository that is served as it is"""
    overlay: Path | None = None
    """files that replace this release's in the repository, such as video_encoder/config.pbtxt"""
    loras: Mapping[str, Path] = field(default_factory=dict)
    """LoRA adapters of the language model, PEFT's folders by name"""
    engine_arguments: Mapping[str, Any] = field(default_factory=dict)
    """vLLM's AsyncEngineArgs; they win over those that the export was told"""
    http_port: int = 8000
    """0: a free one, for each of the three"""
    grpc_port: int = 8001
    metrics_port: int = 8002
    http_address: str = "127.0.0.1"
    grpc_address: str = "127.0.0.1"
    metrics_address: str = "127.0.0.1"
    cache_megabytes: int = 512
    """how much of the features of media asked about is kept in RAM; 0: little, and every request is encoded"""
    start_timeout_seconds: float = 600.0
    """until every model is ready"""
    exit_timeout_seconds: int = 30
    """for requests in flight when the server is asked to stop"""
    tls_certificate: Path | None = None
    """PEM; with its key gRPC is encrypted, and HTTP, which Triton cannot encrypt, answers nothing but health"""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """PEM; clients must show a certificate that it has signed"""
    admin_key: str = field(default_factory=new_admin_key, repr=False)
    """opens what is closed to clients; random unless given"""
    otlp_endpoint: str = ""
    """of an OpenTelemetry collector, OTLP over HTTP, such as http://localhost:4318: requests that are part of a trace
    add their spans to it"""
    request_log: str = ""
    """where and how requests are logged: video_llava_server/log_file.py; "": nowhere"""
    triton_flags: tuple[str, ...] = ()
    """further flags of tritonserver; they come last and win"""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.repository is None):
            raise OptionError("name either the model folder or a repository to serve: --model DIR, --repository DIR")
        if self.loras and self.model is None:
            raise OptionError("--lora NAME=DIR goes with --model DIR: the adapter is checked against the model")
        for name in ("http_port", "grpc_port", "metrics_port"):
            if not 0 <= getattr(self, name) <= 65_535:
                raise OptionError(f"{name} is {getattr(self, name)}, expected 0 to 65535")
        if self.cache_megabytes < 0:
            raise OptionError(f"cache_megabytes is {self.cache_megabytes}, expected 0 or more")
        if self.start_timeout_seconds <= 0:
            raise OptionError(f"start_timeout_seconds is {self.start_timeout_seconds}, expected more than 0")
        if self.exit_timeout_seconds < 0:
            raise OptionError(f"exit_timeout_seconds is {self.exit_timeout_seconds}, expected 0 or more")
        self._check_tls()
        if not _ADMIN_KEY.fullmatch(self.admin_key):
            raise OptionError(
                "admin_key must be 16 or more letters, digits, '-' and '_': openssl rand -hex 32 makes one"
            )
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise OptionError(f"otlp_endpoint is {self.otlp_endpoint!r}, expected an address as http://localhost:4318")

    def _check_tls(self) -> None:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise OptionError("TLS takes both, tls_certificate and tls_key, got one of them")
        if self.tls_client_ca is not None and self.tls_certificate is None:
            raise OptionError(
                "tls_client_ca asks clients for certificates, so it needs tls_certificate and tls_key too"
            )
        for name in ("tls_certificate", "tls_key", "tls_client_ca"):
            path = getattr(self, name)
            if path is not None and not path.is_file():
                raise OptionError(f"{name} is {path}, which is no file: name a PEM file")
