"""Encryption of the connection."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import OptionError

if TYPE_CHECKING:
    import grpc


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificates and keys, as PEM files or their bytes.

    | Usage | |
    |---|---|
    | `Tls()` | a public authority signed the server's certificate |
    | `Tls(root_certificates="ca.pem")` | your own authority signed it |
    | `Tls(root_certificates="ca.pem", certificate="client.pem", key="client.key")` | mutual TLS |
    | `Tls(server_name="triton.example")` | the certificate has this name instead of the address |

    Raises:
        OptionError: A file cannot be read, or only one of certificate and key is given.
    """

    root_certificates: str | PathLike[str] | bytes | None = None
    certificate: str | PathLike[str] | bytes | None = None
    key: str | PathLike[str] | bytes | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise OptionError("tls: mutual TLS needs both certificate= and key=, got one of them")
        for name in ("root_certificates", "certificate", "key"):
            self._read(name)

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's credentials."""
        import grpc

        return grpc.ssl_channel_credentials(
            root_certificates=self._read("root_certificates"),
            private_key=self._read("key"),
            certificate_chain=self._read("certificate"),
        )

    def _read(self, name: str) -> bytes | None:
        value = getattr(self, name)
        if value is None or isinstance(value, bytes):
            return value
        try:
            return Path(value).read_bytes()
        except OSError as exc:
            raise OptionError(f"tls: cannot read {name} {str(value)!r} ({exc.strerror}): name a PEM file") from exc
