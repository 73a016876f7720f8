"""All settings of a client, checked once."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypedDict

from .addresses import is_local
from .conventions import Conventions
from .errors import OptionError
from .limits import MediaLimits
from .retry import Retry
from .tls import Tls

DEFAULT_TIMEOUT_SECONDS = 120.0
MAX_MESSAGE_BYTES = 2**31 - 1  # the largest message that Triton takes and protobuf can write

Token = str | Callable[[], str] | Callable[[], Awaitable[str]]

_HEADER = re.compile(r"[a-z0-9_.-]+")


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """How long a request may take, in seconds.

    | Usage | |
    |---|---|
    | `timeout_seconds=30` | everything, from the call to the last token |
    | `timeout_seconds=Timeouts(total=30, first_token=5)` | a server that is silent for 5 s is given up for another |

    Attributes:
        total: From the call to the last token, with decoding, delays and all attempts.
        first_token: From sending to the first token, for each attempt; None: as long as `total`.
    """

    total: float = DEFAULT_TIMEOUT_SECONDS
    first_token: float | None = None

    def __post_init__(self) -> None:
        check_seconds("timeout_seconds", self.total)
        if self.first_token is not None:
            check_seconds("Timeouts: first_token", self.first_token)

    @classmethod
    def of(cls, seconds: float | Timeouts) -> Timeouts:
        """Return `seconds` as timeouts."""
        return seconds if isinstance(seconds, Timeouts) else cls(total=seconds)


class ClientOptions(TypedDict, total=False):
    """What `with_options` may change."""

    timeout_seconds: float | Timeouts
    model: str
    headers: Mapping[str, str]
    token: Token | None
    retry: Retry
    media_limits: MediaLimits
    max_message_bytes: int
    conventions: Conventions | None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of `VideoLlava`."""

    addresses: tuple[str, ...]
    model: str
    timeouts: Timeouts
    connect_timeout_seconds: float
    keepalive_seconds: float | None
    max_message_bytes: int
    tls: Tls | None
    headers: Mapping[str, str]
    token: Token | None = field(repr=False)
    retry: Retry
    media_limits: MediaLimits
    conventions: Conventions | None = None

    def __post_init__(self) -> None:
        check_seconds("connect_timeout_seconds", self.connect_timeout_seconds)
        if self.keepalive_seconds is not None:
            check_seconds("keepalive_seconds", self.keepalive_seconds)
        if not 0 < self.max_message_bytes <= MAX_MESSAGE_BYTES:
            raise OptionError(f"max_message_bytes must be 1 to {MAX_MESSAGE_BYTES}, got {self.max_message_bytes}")
        for name, value in self.headers.items():
            _check_header(name, value)
        if self.token is not None and self.tls is None and not all(map(is_local, self.addresses)):
            raise OptionError(
                f"the token would be sent to {self.url} unencrypted: give tls=Tls(), or send it with headers= "
                "if something else encrypts the connection"
            )

    def with_options(self, options: ClientOptions) -> Self:
        """Return settings with some changed; `headers` are added."""
        if not options:
            return self
        unknown = set(options) - set(ClientOptions.__annotations__)
        if unknown:
            known = ", ".join(ClientOptions.__annotations__)
            raise OptionError(f"with_options takes {known}, got {', '.join(sorted(unknown))}")
        changes: dict[str, Any] = {**options, "headers": {**self.headers, **options.get("headers", {})}}
        if "timeout_seconds" in changes:
            changes["timeouts"] = Timeouts.of(changes.pop("timeout_seconds"))
        return replace(self, **changes)

    @property
    def url(self) -> str:
        """All addresses, separated by commas."""
        return ",".join(self.addresses)


def check_seconds(name: str, seconds: float) -> None:
    """Raise OptionError unless `seconds` is positive and finite."""
    if not 0 < seconds < math.inf:
        raise OptionError(f"{name} must be more than 0 and finite, got {seconds}")


def _check_header(name: str, value: str) -> None:
    # gRPC fails the whole call for one bad header, without saying which.
    if not _HEADER.fullmatch(name) or name.startswith("grpc-") or name.endswith("-bin"):
        raise OptionError(f"headers: {name!r} is not a valid name: use lower-case letters, digits, '-', '_' and '.'")
    if not value.isascii() or not value.isprintable():
        raise OptionError(f"headers: {name} must be printable ASCII, got {value!r}")
