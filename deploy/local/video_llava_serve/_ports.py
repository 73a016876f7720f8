"""Ports: free ones, and an early refusal of taken ones."""

import random
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ._errors import PortError

_ATTEMPTS = 200
_FIRST_PORT = 20_000
_MIN_CHOICE = 10_000
_OUTGOING_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def choose_ports(wanted: Sequence[tuple[str, int]]) -> list[int]:
    """The ports of (address, port) pairs, every 0 replaced by a free one, all different.

    Raises `PortError` when a port that is not 0 is taken or named twice.
    """
    named = [port for _, port in wanted if port]
    if len(set(named)) < len(named):
        raise PortError(f"the ports must differ, got {', '.join(map(str, named))}")
    chosen: list[int] = []
    for address, port in wanted:
        if port:
            _refuse_taken(address, port)
        chosen.append(port or _free_port(address, taken={*named, *chosen}))
    return chosen


def _refuse_taken(address: str, port: int) -> None:
    try:
        _bind(address, port)
    except OSError as exc:
        raise PortError(
            f"cannot listen on {address}:{port}: {exc.strerror}; name another port, or 0 for a free one"
        ) from exc


def _free_port(address: str, *, taken: set[int]) -> int:
    # Triton binds only after the models have loaded, which can take minutes. By then a port that the kernel gives out
    # may belong to an outgoing connection, so take one below the range of those.
    candidates = range(_FIRST_PORT, max(_first_outgoing_port(), _FIRST_PORT + _MIN_CHOICE))
    for port in random.sample(candidates, k=_ATTEMPTS):
        if port not in taken and _is_free(address, port):
            return port
    raise PortError(f"no free port on {address} in {_ATTEMPTS} attempts; is it an address of this machine?")


def _first_outgoing_port() -> int:
    try:
        return int(_OUTGOING_RANGE.read_text(encoding="ascii").split()[0])
    except OSError:
        return 0


def _is_free(address: str, port: int) -> bool:
    try:
        _bind(address, port)
    except OSError:
        return False
    return True


def _bind(address: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as candidate:
        # As servers do: a connection of an earlier server that still closes does not count as taken.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        candidate.bind((address, port))
