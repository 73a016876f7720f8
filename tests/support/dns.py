"""A name server for one name, as the cluster's answers for a headless Service: with the pods that may get requests."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Self

_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!HH")
_ANSWER = struct.Struct("!HHHIH")
_A = 1
_IS_RESPONSE, _NO_SUCH_NAME = 0x8400, 3
_POINTER_TO_QUESTION = 0xC000 | _HEADER.size
_TTL_SECONDS = 30  # what kubeadm gives CoreDNS


class NameServer:
    """Listens on UDP inside of a `with` block.

    Attributes:
        name: The only one it knows.
        addresses: What the name stands for, IPv4; replace it to change it.
    """

    def __init__(self, name: str, addresses: Iterable[str], *, listens_at: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        self.name = name
        self.addresses = tuple(addresses)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(listens_at)
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)

    @property
    def port(self) -> int:
        return self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An empty message, which no resolver sends, is the end.
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(512)
            if not query:
                return
            self._socket.sendto(self._respond(query), sender)

    def _respond(self, query: bytes) -> bytes:
        name, end = _read_name(query)
        kind, _ = _QUESTION.unpack_from(query, end)
        addresses = self.addresses if (name, kind) == (self.name, _A) else ()
        status = 0 if name == self.name else _NO_SUCH_NAME
        (request_id,) = struct.unpack_from("!H", query)
        answers = (
            _ANSWER.pack(_POINTER_TO_QUESTION, _A, 1, _TTL_SECONDS, 4) + socket.inet_aton(address)
            for address in addresses
        )
        header = _HEADER.pack(request_id, _IS_RESPONSE | status, 1, len(addresses), 0, 0)
        return header + query[_HEADER.size : end + _QUESTION.size] + b"".join(answers)


def _read_name(query: bytes) -> tuple[str, int]:
    """The name that is asked for, and where it ends."""
    labels, at = [], _HEADER.size
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii"))
        at += 1 + length
    return ".".join(labels), at + 1
