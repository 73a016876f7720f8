"""Whether a request may go on to the encoders: not while the server drains, and not while the language model is full.

The language model refuses what is too much as well, but only after the encoders' work. It says how full it is in the
runtime folder; requests on their way to it are counted here. A BLS request instead of the folder hangs Triton 24.10
under load.

A ticket may never arrive: its request was cancelled, or failed in the encoders, or a client has called `intake` alone.
It must not hold a place for longer than a real request. Encoders work in order, but for frames that come from Triton's
cache. So a ticket is lost once a later one with new frames has arrived, or once none has arrived for a while. While
tickets hold all places a few requests pass all the same: the first that arrives tells which tickets are lost. Prompts
without frames wait for no encoder and hold no place.

Requests that step back (a priority above 0) leave a tenth of the places to the others.

What a client can do by calling `intake` alone: while it sends more calls than there are places, in the time that an
encoder takes for its work (at least a second), others get places by chance, one call like another. It can do the same
with requests to the ensemble.
"""

import time
from collections.abc import Iterable
from typing import Any

from .errors import Unavailable
from .runtime_folder import Occupancy, RuntimeFolder
from .tickets import Ticket

# How many pass while tickets hold all places (one for each 16 places), and how soon one after the other.
_PLACES_PER_PROBE = 16
_PROBE_SECONDS = 0.1
_PLACES_PER_KEPT = 10


class Gate:
    """Lets requests pass while there is room for them. For one thread."""

    def __init__(self, folder: RuntimeFolder) -> None:
        self._folder = folder
        self._tickets: dict[Ticket, Any] = {}
        self._probe_at = 0.0
        self.lost: list[Any] = []
        """what came with the tickets of requests that passed and never reached the language model"""
        folder.write_tickets([])

    def enter(self, ticket: Ticket, note: Any = None, *, steps_back: bool = False) -> None:
        """Let one request pass; `note` comes back in `lost`. Raises Unavailable."""
        self._folder.refuse_while_draining()
        occupancy = self._folder.read_occupancy()
        arrived = frozenset(occupancy.arrived)
        left = set(on_the_way(self._tickets, occupancy))
        self.lost += [old for known, old in self._tickets.items() if known not in left and known.serial not in arrived]
        self._tickets = {known: old for known, old in self._tickets.items() if known in left}
        self._check_room(ticket, occupancy, steps_back=steps_back)
        if any(ticket.media):
            self._tickets[ticket] = note
            self._folder.write_tickets(self._tickets)

    def _check_room(self, ticket: Ticket, occupancy: Occupancy, *, steps_back: bool) -> None:
        num_requests = occupancy.num_in_flight + (len(self._tickets) if any(ticket.media) else 0)
        num_kept = occupancy.max_requests // _PLACES_PER_KEPT if steps_back else 0
        num_places = occupancy.max_requests - num_kept
        has_room = not occupancy.max_requests or num_requests < num_places
        if not has_room and not self._is_probe(ticket, occupancy, num_places):
            kept = f", {num_kept} of them for requests of priority 0" if num_kept else ""
            raise Unavailable(
                f"{num_requests} requests are in flight, max_requests is {occupancy.max_requests}{kept}: try again",
                reason="full",
                retry_after_seconds=occupancy.retry_after_seconds,
            )

    def _is_probe(self, ticket: Ticket, occupancy: Occupancy, num_places: int) -> bool:
        if occupancy.num_in_flight >= num_places or ticket.received_seconds < self._probe_at:
            return False
        if occupancy.num_in_flight + len(self._tickets) >= num_places + -(-num_places // _PLACES_PER_PROBE):
            return False
        self._probe_at = ticket.received_seconds + _PROBE_SECONDS
        return True


def on_the_way(tickets: Iterable[Ticket], occupancy: Occupancy) -> list[Ticket]:
    """Return those of `tickets` that are neither at the language model nor lost."""
    arrived, now = frozenset(occupancy.arrived), time.monotonic()
    return [ticket for ticket in tickets if ticket.serial not in arrived and not _is_lost(ticket, occupancy, now)]


def _is_lost(ticket: Ticket, occupancy: Occupancy, now: float) -> bool:
    return all(
        ticket.serial < last.serial or now - max(last.seconds, ticket.received_seconds) > last.silence_seconds
        for frames, last in zip(ticket.media, occupancy.last_new, strict=True)
        if frames
    )
