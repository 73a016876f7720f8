"""How a client reaches its server: addresses, encryption, retries and limits, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

from .errors import OptionError

DEFAULT_TIMEOUT_SECONDS = 120.0
MAX_MESSAGE_BYTES = 2**31 - 1
"""The largest message that Triton takes, and that protobuf can write."""

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]

# What gRPC's own resolvers take; a bare host:port goes to its DNS resolver too.
_RESOLVERS = ("dns:", "ipv4:", "ipv6:", "unix:", "xds:")
_HEADER = re.compile(r"[a-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Encryption of the connection; certificates and keys are PEM files or their bytes.

    | Usage | |
    |---|---|
    | `Tls()` | the server's certificate is signed by a public authority |
    | `Tls(root_certificates="ca.pem")` | by one of your own |
    | `Tls(root_certificates="ca.pem", certificate="client.pem", key="client.key")` | mutual TLS |
    | `Tls(server_name="triton.example")` | the name in the certificate is not the one in the address |

    Raises:
        OptionError: A file cannot be read, or a certificate comes without its key.
    """

    root_certificates: str | PathLike[str] | bytes | None = None
    certificate: str | PathLike[str] | bytes | None = None
    key: str | PathLike[str] | bytes | None = field(default=None, repr=False)
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise OptionError("tls: mutual TLS takes both, certificate= and key=, got one of them")
        for name in ("root_certificates", "certificate", "key"):
            self.read(name)

    def read(self, name: str) -> bytes | None:
        """Return the PEM bytes of the field `name`."""
        value = getattr(self, name)
        if value is None or isinstance(value, bytes):
            return value
        try:
            return Path(value).read_bytes()
        except OSError as exc:
            raise OptionError(f"tls: cannot read {name} {str(value)!r} ({exc.strerror}): name a PEM file") from exc


@dataclass(frozen=True, kw_only=True)
class Retry:
    """When to ask again: only what may succeed later (`Unavailable`, a stream that broke off), and only before the
    first token came; without streaming, before the answer.

    | Usage | |
    |---|---|
    | `Retry()` | up to 4 attempts, about 0.25, 0.5 and 1 s apart |
    | `Retry(num_attempts=1)` | never again |

    The wait doubles from `first_wait_seconds` up to `max_wait_seconds`; each is cut at random by up to a half, so
    that many clients do not come back at once. `timeout_seconds` bounds all attempts together. Refusals by a server
    that is about to stop are not counted: as soon as they may, requests go to another one.
    """

    num_attempts: int = 4
    first_wait_seconds: float = 0.25
    max_wait_seconds: float = 4.0

    def __post_init__(self) -> None:
        if self.num_attempts < 1:
            raise OptionError(f"retry: num_attempts must be at least 1, got {self.num_attempts}")
        for name in ("first_wait_seconds", "max_wait_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise OptionError(f"retry: {name} must be 0 or more and finite, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a client is made with; the fields are the arguments of `VideoLlava`.

    Raises:
        OptionError: One of them cannot be used.
    """

    addresses: tuple[str, ...]
    model: str
    timeout_seconds: float
    connect_timeout_seconds: float
    keepalive_seconds: float | None
    max_message_bytes: int
    tls: Tls | None
    headers: Mapping[str, str]
    token: Token | None = field(repr=False)
    retry: Retry

    def __post_init__(self) -> None:
        check_seconds("timeout_seconds", self.timeout_seconds)
        check_seconds("connect_timeout_seconds", self.connect_timeout_seconds)
        if self.keepalive_seconds is not None:
            check_seconds("keepalive_seconds", self.keepalive_seconds)
        if not 0 < self.max_message_bytes <= MAX_MESSAGE_BYTES:
            raise OptionError(f"max_message_bytes must be 1 to {MAX_MESSAGE_BYTES}, got {self.max_message_bytes}")
        for name, value in self.headers.items():
            _check_header(name, value)
        if self.token is not None and self.tls is None and not all(map(_is_this_machine, self.addresses)):
            raise OptionError(
                f"a token would travel to {', '.join(self.addresses)} unencrypted: give tls=Tls(), "
                "or headers= if something else encrypts the connection"
            )

    @property
    def url(self) -> str:
        """All addresses, for people."""
        return ",".join(self.addresses)


def parse_addresses(url: str | Sequence[str]) -> tuple[str, ...]:
    """Return the addresses in `url`: one, several with commas between them, or a sequence.

    Each is `host:port` or a name for one of gRPC's resolvers, such as `dns:///triton:8001`.

    Raises:
        OptionError: There is none, or one is something else, such as an HTTP URL.
    """
    listed = [url] if isinstance(url, str) else list(url)
    # gRPC's own lists (ipv4:10.0.0.1:8001,10.0.0.2:8001) are one name to its resolver.
    addresses = [a for entry in listed for a in ([entry] if entry.startswith(_RESOLVERS) else entry.split(","))]
    for address in addresses:
        _check_address(address)
    if not addresses:
        raise OptionError("url must name at least one address, such as localhost:8001, got none")
    return tuple(addresses)


def check_seconds(name: str, seconds: float) -> None:
    """Raise OptionError unless `seconds` is a time to wait."""
    if not 0 < seconds < math.inf:
        raise OptionError(f"{name} must be more than 0 and finite, got {seconds}")


def _check_address(address: str) -> None:
    if address.startswith(_RESOLVERS):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OptionError(
            f"url must be host:port without a scheme, such as localhost:8001, or dns:///host:port, got {address!r}"
        )


def _check_header(name: str, value: str) -> None:
    # gRPC closes the whole call over one bad header, without saying which.
    if not _HEADER.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
        raise OptionError(f"headers: {name!r} is no name for one: lower-case letters, digits, '-', '_' and '.'")
    if not value.isascii() or not value.isprintable():
        raise OptionError(f"headers: {name} must be printable ASCII, got {value!r}")


def _is_this_machine(address: str) -> bool:
    return address.startswith(("localhost:", "127.", "[::1]:", "unix:"))
