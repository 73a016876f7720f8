"""The server's addresses take turns; one that could not be reached is left out for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import StateError
from .triton import Methods

AVOID_SECONDS = 5.0
"""How long an address is left out after it could not be reached, while others can be."""


@dataclass(eq=False)
class Lane:
    """One channel to one address.

    Attributes:
        address: Where it goes.
        channel: gRPC's channel, of either flavour.
        methods: Triton's methods on it.
        avoid_until: By `time.monotonic()`.
    """

    address: str
    channel: Any
    methods: Methods
    avoid_until: float = 0.0


class Pool:
    """All channels of one client; safe to use from any thread.

    Args:
        addresses: At least one.
        open_channel: Makes the channel to an address.
    """

    def __init__(self, addresses: Iterable[str], open_channel: Callable[[str], Any]) -> None:
        self._addresses = tuple(addresses)
        self._open_channel = open_channel
        self._lanes: list[Lane] = []
        self._retired: list[Any] = []
        self._turn = 0
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> list[Any]:
        """Give out no more lanes; return the channels, which are the caller's to close."""
        with self._lock:
            self._closed = True
            return [lane.channel for lane in self._lanes] + self._retired

    def check_open(self, cause: Exception | None = None) -> None:
        """Raise StateError if the pool is closed."""
        if self._closed:
            raise StateError("this client is closed: make another one") from cause

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Tell a channel that was closed meanwhile, for which gRPC has but a ValueError, by a StateError."""
        try:
            yield
        except ValueError as exc:
            self.check_open(exc)
            raise

    def next(self) -> Lane:
        """Return whose turn it is: of those that can be reached, or else of all.

        Raises:
            StateError: The pool is closed.
        """
        now = time.monotonic()
        with self._lock:
            self.check_open()
            # Not before the first request: a channel of asyncio's belongs to the event loop that runs then.
            self._lanes = self._lanes or [self._open(address) for address in self._addresses]
            lanes = [lane for lane in self._lanes if lane.avoid_until <= now] or self._lanes
            lane = min(lanes, key=self._distance)
            self._turn = self._lanes.index(lane) + 1
            return lane

    def avoid(self, lane: Lane) -> bool:
        """Leave `lane` out for a while; return whether another one can be tried at once."""
        with self._lock:
            lane.avoid_until = time.monotonic() + AVOID_SECONDS
            return any(other.avoid_until <= time.monotonic() for other in self._lanes)

    def renew(self, lane: Lane) -> None:
        """Open another channel in the place of `lane`'s; requests under way on that one go on."""
        with self._lock:
            if lane in self._lanes and not self._closed:
                self._retired.append(lane.channel)
                self._lanes[self._lanes.index(lane)] = self._open(lane.address)

    def _open(self, address: str) -> Lane:
        channel = self._open_channel(address)
        # Made once, here: gRPC 1.85 crashes the process where a method is made on a closed channel.
        return Lane(address, channel, Methods(channel))

    def _distance(self, lane: Lane) -> int:
        return (self._lanes.index(lane) - self._turn) % len(self._lanes)
