"""The replicas of the server: which one a request goes to. One that cannot be reached is skipped for a while."""

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .errors import StateError
from .triton import Methods

AVOID_SECONDS = 5.0  # how long a replica that could not be reached is skipped, while others can be
_LOAD_BOUND = 1.25  # times the mean of the running requests: a replica with more gets no request for its cache's sake


@dataclass(eq=False)
class Replica:
    """One address with its channel.

    Attributes:
        channel: gRPC's channel, blocking or asyncio.
        methods: Triton's methods on it.
        avoid_until: By `time.monotonic()`.
        num_running: This client's requests there.
    """

    address: str
    channel: Any
    methods: Methods
    avoid_until: float = 0.0
    num_running: int = 0


class Pool:
    """All replicas of one client; any thread may use it.

    Args:
        addresses: At least one.
        open_channel: Makes the channel to an address.
    """

    def __init__(self, addresses: Iterable[str], open_channel: Callable[[str], Any]) -> None:
        self._addresses = tuple(addresses)
        self._open_channel = open_channel
        self._replicas: list[Replica] = []
        self._replaced_channels: list[Any] = []
        self._next_index = 0
        self._closed = False
        self._lock = threading.Lock()

    def close(self) -> list[Any]:
        """Refuse further requests; return the channels, which the caller closes."""
        with self._lock:
            self._closed = True
            return [replica.channel for replica in self._replicas] + self._replaced_channels

    def check_open(self, cause: Exception | None = None) -> None:
        """Raise StateError if the pool is closed."""
        if self._closed:
            raise StateError("this client is closed: make a new one") from cause

    def next(self, *, digest: str = "", takes_turn: bool = True) -> Replica:
        """Return a replica that is not avoided, or one of all if every one is; `send` must follow.

        Args:
            digest: Of the request's media. It chooses the replica that has their features: rendezvous hashing with
                bounded loads. Without media, "", the next in turn is chosen.
            takes_turn: False: the next request gets the same one. For what is asked once, before the first request.
        """
        now = time.monotonic()
        with self._lock:
            self.check_open()
            # Opened with the first request: an asyncio channel belongs to the event loop that runs then.
            self._replicas = self._replicas or [self._open(address) for address in self._addresses]
            candidates = [replica for replica in self._replicas if replica.avoid_until <= now] or self._replicas
            if digest:
                most = math.ceil(_LOAD_BOUND * (sum(each.num_running for each in candidates) + 1) / len(candidates))
                free = [replica for replica in candidates if replica.num_running < most]
                chosen = max(free, key=lambda replica: hashlib.blake2b((digest + replica.address).encode()).digest())
            else:
                chosen = min(candidates, key=self._distance)
                self._next_index = self._replicas.index(chosen) + takes_turn
            chosen.num_running += 1
            return chosen

    def send(self, replica: Replica, method: str, message: Any, **options: Any) -> Any:
        """Send `message` to a replica that `next` chose; return gRPC's call, which runs there until it ends.

        Raises:
            StateError: The pool is closed.
        """

        def ended(_: Any = None) -> None:
            with self._lock:
                replica.num_running -= 1

        try:
            call = getattr(replica.methods, method)(message, **options)
        except BaseException as exc:
            ended()
            if isinstance(exc, ValueError):  # of gRPC, whose channel is closed
                self.check_open(exc)
            raise
        if not hasattr(call, "add_callback"):  # asyncio's
            call.add_done_callback(ended)
        # With `add_done_callback`, which refers to the call, a thread of gRPC would stay after it.
        elif not call.add_callback(ended):
            ended()
        return call

    def avoid(self, replica: Replica, seconds: float) -> bool:
        """Skip `replica` for a while; return whether another one can be tried at once."""
        with self._lock:
            replica.avoid_until = time.monotonic() + seconds
            return any(other.avoid_until <= time.monotonic() for other in self._replicas)

    def replace_channel(self, replica: Replica) -> None:
        """Open a new channel for later requests; running requests keep the old one."""
        with self._lock:
            if replica in self._replicas and not self._closed:
                self._replaced_channels.append(replica.channel)
                self._replicas[self._replicas.index(replica)] = self._open(replica.address)

    def _open(self, address: str) -> Replica:
        channel = self._open_channel(address)
        # The methods are made here, once: gRPC 1.85 crashes if one is made on a closed channel.
        return Replica(address, channel, Methods(channel))

    def _distance(self, replica: Replica) -> int:
        return (self._replicas.index(replica) - self._next_index) % len(self._replicas)
