"""Where media may come from."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Self

from .errors import MediaRefused, OptionError

_SCHEMES = ("http", "https", "data")


@dataclass(frozen=True)
class SourcePolicy:
    """Where media may come from. Bytes, file objects and arrays are always allowed.

    | Usage | |
    |---|---|
    | `SourcePolicy()` | for a script's own media: any path, any address |
    | `SourcePolicy.untrusted()` | for addresses from anybody: no paths, no private networks |
    | `SourcePolicy.untrusted(hosts=("cdn.example.com", "*.example.org"))` | only from these |
    | `SourcePolicy(allow_paths=False, allow_addresses=False)` | neither paths nor addresses |

    Attributes:
        allow_paths: Files of this machine, by path or by a `file:` address.
        allow_addresses: Addresses of any scheme.
        schemes: Of addresses: "http", "https", "data".
        hosts: Names, IP addresses, or "*.example.org" for all names that end so; None: any. Redirects too.
        allow_private_networks: Also hosts that are not on the public Internet, such as this machine. What counts is
            the IP address that is connected to. Where a proxy connects, names are looked up here too, and all their
            addresses count.
        max_redirects: How often a server may send the client elsewhere; never from https to http.
        content_types: What servers may say that they send, such as "video/*"; None: anything but HTML.

    Raises:
        OptionError: A value cannot be used.
    """

    allow_paths: bool = True
    allow_addresses: bool = True
    schemes: tuple[str, ...] = _SCHEMES
    hosts: tuple[str, ...] | None = None
    allow_private_networks: bool = True
    max_redirects: int = 10
    content_types: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("schemes", "hosts", "content_types"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise OptionError(f"SourcePolicy: {name} must be several texts, such as ({value!r},), got {value!r}")
            if value is not None:  # lists too
                object.__setattr__(self, name, tuple(map(_as_compared, value)))
        if unknown := set(self.schemes) - set(_SCHEMES):
            raise OptionError(f"SourcePolicy: schemes must be among {', '.join(_SCHEMES)}, got {min(unknown)!r}")
        if self.max_redirects < 0:
            raise OptionError(f"SourcePolicy: max_redirects must be at least 0, got {self.max_redirects}")

    @classmethod
    def untrusted(cls, **changes: Any) -> Self:
        """Return the policy for addresses from anybody, with `changes`."""
        types = ("video/*", "image/*", "application/octet-stream", "binary/octet-stream", "application/mp4")
        strict = {"allow_paths": False, "allow_private_networks": False, "max_redirects": 3, "content_types": types}
        return cls(**strict | changes)

    def check_path(self, *, source: str) -> None:
        """Raise MediaRefused if files of this machine are not allowed."""
        if not self.allow_paths:
            raise _refused(source, "files of this machine are not allowed", "allow_paths")

    def check_scheme(self, scheme: str, *, source: str) -> None:
        """Raise MediaRefused if addresses of this kind are not allowed."""
        if not self.allow_addresses:
            raise _refused(source, "addresses are not allowed", "allow_addresses")
        if scheme not in self.schemes:
            raise _refused(source, f"{scheme} addresses are not allowed", "schemes")

    def check_host(self, host: str, *, source: str) -> None:
        """Raise MediaRefused if this host is not among those that are allowed."""
        name = host.strip("[]").rstrip(".").lower()
        if self.hosts is not None and not any(_matches(name, pattern) for pattern in self.hosts):
            raise _refused(source, "this host is not allowed", "hosts")

    def allows_ip(self, address: str) -> bool:
        """Whether an IP address may be connected to."""
        return self.allow_private_networks or is_public(address)

    def not_public(self, *, source: str) -> MediaRefused:
        """Return the error for a host that is not on the public Internet."""
        return _refused(source, "this host is not on the public Internet", "allow_private_networks")

    def check_content_type(self, content_type: str, *, source: str) -> None:
        """Raise MediaRefused if a server may not send this; without a type it is "application/octet-stream"."""
        kind = content_type.partition(";")[0].strip().lower() or "application/octet-stream"
        if self.content_types is not None and not any(fnmatchcase(kind, pattern) for pattern in self.content_types):
            raise _refused(source, f"the server sends {kind[:50]!r}, which is not allowed", "content_types")


def is_public(address: str) -> bool:
    """Whether an IP address is on the public Internet; one that stands for an IPv4 address counts as that."""
    import ipaddress

    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = ip.ipv4_mapped or ip.sixtofour
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            embedded = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if embedded is None:
            return ip.is_global and ip in ipaddress.ip_network("2000::/3")
        ip = embedded
    return ip.is_global and not ip.is_multicast


def _as_compared(text: str) -> str:
    return text.lower() if text.isascii() else text.encode("idna").decode()


def _matches(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*.") else name == pattern.strip("[]").rstrip(".")


def _refused(source: str, reason: str, field: str) -> MediaRefused:
    return MediaRefused(f"{source}: {reason}: give another source, or change SourcePolicy.{field}", source=source)
