"""The addresses of a server's gRPC service."""

from collections.abc import Sequence

from .errors import OptionError

# gRPC's resolvers; a plain host:port goes to its DNS resolver too.
_RESOLVERS = ("dns:", "ipv4:", "ipv6:", "unix:", "xds:")


def parse_addresses(url: str | Sequence[str]) -> tuple[str, ...]:
    """Return the addresses in `url`: one, several separated by commas, or a sequence.

    Each is `host:port` or a name for one of gRPC's resolvers, such as `dns:///triton:8001`.
    """
    entries = [url] if isinstance(url, str) else list(url)
    # A list of gRPC's own (ipv4:10.0.0.1:8001,10.0.0.2:8001) is one name to its resolver.
    addresses = [a for entry in entries for a in ([entry] if entry.startswith(_RESOLVERS) else entry.split(","))]
    for address in addresses:
        _check_address(address)
    if not addresses:
        raise OptionError("url must name at least one address, such as localhost:8001, got none")
    return tuple(addresses)


def is_local(address: str) -> bool:
    """Whether `address` is on this machine."""
    return address.startswith(("localhost:", "127.", "[::1]:", "unix:"))


def _check_address(address: str) -> None:
    if address.startswith(_RESOLVERS):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise OptionError(
            f"url must be host:port without a scheme, such as localhost:8001, or dns:///host:port, got {address!r}"
        )
