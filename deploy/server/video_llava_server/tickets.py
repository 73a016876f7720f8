"""Tickets: how the language model knows that a request came through the ensemble, and when.

Any client can call any model. `intake` gives each request that it lets pass a ticket, which only this server can make
and which is good once; `vicuna` takes the time of arrival from it and believes nothing else.

A client can call `intake`, `vicuna` and the encoders one after the other, as the ensemble does. With a ticket it gets
what a request to the ensemble gets, once: no check for a drain, and `encode_seconds` as long as it waited, an hour at
most. A ticket that it does not use is a request that was cancelled in the encoders (`gate.py`).
"""

import hashlib
import hmac
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import NamedTuple

import numpy as np

from .errors import InvalidArgument
from .tensors import text

NO_FRAMES, SEEN_FRAMES, NEW_FRAMES = range(3)
"""What a request has for one encoder; frames that were seen before may come from Triton's cache, without a wait."""

_EXPIRE_SECONDS = 3600.0
_NUM_REMEMBERED = 2**16
_SAMPLE_STRIDE = 101
_MAC_BYTES = 16


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
        self._seen: OrderedDict[int, None] = OrderedDict()

    def issue(self, received_seconds: float, frames: Sequence[np.ndarray]) -> Ticket:
        """Make the ticket of a request with `frames` for the two encoders."""
        video, image = (self._look(number, array) for number, array in enumerate(frames))
        return Ticket(next(self._serials), received_seconds, video, image)

    def seal(self, ticket: Ticket) -> str:
        """Return the ticket as text that nobody else can make."""
        body = ticket.pack() + ticket.media_digest
        return (body + _mac(self._key, body)).hex()

    def _look(self, encoder: int, frames: np.ndarray) -> int:
        if not len(frames):
            return NO_FRAMES
        # A sample is enough: frames that are taken for seen ones only tell less about the encoders.
        sample = hash((encoder, frames.shape, frames.reshape(-1)[::_SAMPLE_STRIDE].tobytes()))
        is_new = sample not in self._seen
        self._seen[sample] = None
        self._seen.move_to_end(sample)
        if len(self._seen) > _NUM_REMEMBERED:
            self._seen.popitem(last=False)
        return NEW_FRAMES if is_new else SEEN_FRAMES


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
        content = _from_hex(sealed)
        body, mac = content[:-_MAC_BYTES], content[-_MAC_BYTES:]
        if not hmac.compare_digest(_mac(self._read_key(), body), mac):
            return None
        ticket = Ticket(*LAYOUT.unpack_from(body), media_digest=body[LAYOUT.size :])
        slot = ticket.serial % _NUM_REMEMBERED
        if ticket.serial <= self._used[slot] or time.monotonic() - ticket.received_seconds > _EXPIRE_SECONDS:
            return None
        self._used[slot] = ticket.serial
        return ticket


def _from_hex(sealed: str) -> bytes:
    try:
        content = bytes.fromhex(sealed)
    except ValueError:
        return b""
    return content if len(content) >= LAYOUT.size + _MAC_BYTES else b""


def _mac(key: bytes, body: bytes) -> bytes:
    return hashlib.blake2b(body, key=key, digest_size=_MAC_BYTES).digest()
