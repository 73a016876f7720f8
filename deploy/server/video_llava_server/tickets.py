"""Tickets: how the language model knows that a request came through the ensemble, and when.

Any client can call any model. `intake` gives each request that it lets pass a ticket, which only this server can make
and which is good once; `vicuna` takes the time of arrival from it and believes nothing else.

A client can call `intake`, `vicuna` and the encoders one after the other, as the ensemble does. With a ticket it gets
what a request to the ensemble gets, once: no check for a drain, and `encode_seconds` as long as it waited, an hour at
most. A ticket that it does not use is a request that was cancelled in the encoders (`gate.py`).
"""

import struct
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import NamedTuple

import numpy as np

from .errors import InvalidArgument
from .seals import seal, unseal
from .tensors import text

NO_FRAMES, SEEN_FRAMES, NEW_FRAMES = range(3)
"""What a request has for one encoder; frames that were seen before may come from Triton's cache, without a wait."""

_EXPIRE_SECONDS = 3600.0
_NUM_REMEMBERED = 2**16
_PURPOSE = "ticket"


class Ticket(NamedTuple):
    """What `intake` notes about a request."""

    serial: int
    received_seconds: float
    """this machine's monotonic clock"""
    video: int = NO_FRAMES
    image: int = NO_FRAMES
    media_digest: bytes = b""
    """for the request log, where there is one"""

    @property
    def media(self) -> tuple[int, int]:
        """What it has for each encoder."""
        return self.video, self.image

    def pack(self) -> bytes:
        """Return LAYOUT.size bytes, without the digest."""
        return LAYOUT.pack(*self[:4])


LAYOUT = struct.Struct("<QdBB")


class TicketOffice:
    """Gives tickets out. For one thread."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._serials = count(1)

    def issue(self, received_seconds: float, video: int, image: int) -> Ticket:
        """Make the ticket of a request that has this for the two encoders."""
        return Ticket(next(self._serials), received_seconds, video, image)

    def seal(self, ticket: Ticket) -> str:
        """Return the ticket as text that nobody else can make."""
        return seal(self._key, _PURPOSE, ticket.pack() + ticket.media_digest)


class TicketInspector:
    """Takes tickets, each once. For one thread."""

    def __init__(self, read_key: Callable[[], bytes]) -> None:
        self._read_key = read_key
        # The newest serial of each slot: an older one was used, or is too old to know.
        self._used = [0] * _NUM_REMEMBERED

    def take(self, tensors: Mapping[str, np.ndarray]) -> Ticket | None:
        """Return the request's ticket, None where it has none. Raises InvalidArgument."""
        if "ticket" not in tensors:
            return None
        ticket = self._open(text(tensors, "ticket"))
        if ticket is None:
            raise InvalidArgument(
                "ticket is not one of this server's, is used or has expired: leave it out, or call video_llava"
            )
        return ticket

    def _open(self, sealed: str) -> Ticket | None:
        body = unseal(self._read_key(), _PURPOSE, sealed)
        if body is None or len(body) < LAYOUT.size:
            return None
        ticket = Ticket(*LAYOUT.unpack_from(body), media_digest=body[LAYOUT.size :])
        slot = ticket.serial % _NUM_REMEMBERED
        if ticket.serial <= self._used[slot] or time.monotonic() - ticket.received_seconds > _EXPIRE_SECONDS:
            return None
        self._used[slot] = ticket.serial
        return ticket
