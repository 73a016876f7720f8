"""Connections: how many, how long one may be silent, and how they end when the gateway stops."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .metrics import Metrics
from .middleware import Middleware

# For the error that ends what still runs when the drain's time is over.
_LAST_WORDS_SECONDS = 3
_TICKS_PER_SECOND = 10  # uvicorn's


class Connection(H11Protocol):
    """One connection. uvicorn itself has no time limit for the head of a request, and none for connections.

    It is idle while no request of it is answered: in its TLS handshake, silent, sending the head of a request, or
    sending what nobody reads any more. Idle ones end after `max_idle_seconds`; when there are too many, the one that is
    idle longest ends first.
    """

    max_connections = 0
    max_idle_seconds = 0.0
    tls: ssl.SSLContext | None = None
    idle_since = 0.0
    _handshake: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:  # noqa: D102
        super().connection_made(transport)
        self.idle_since = time.monotonic()
        if self.tls is not None:
            self._early = bytearray()
            self._handshake = asyncio.create_task(self._start_tls(transport, self.tls))
        if len(self.connections) > self.max_connections:
            idle = [each for each in self.connections if isinstance(each, Connection) and each.is_idle]
            # This one is idle too.
            min(idle, key=lambda each: each.idle_since).abort()

    async def _start_tls(self, transport: Any, tls: ssl.SSLContext) -> None:
        # asyncio's own server tells of a connection when its handshake has ended.
        with suppress(OSError):
            encrypted = await asyncio.get_running_loop().start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=self.max_idle_seconds
            )
            if encrypted is None:  # aborted
                return
            super().connection_made(encrypted)
            if self._early:
                super().data_received(bytes(self._early))

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._handshake is None or self._handshake.done():
            super().data_received(data)
        else:  # it came with the handshake's end
            self._early += data

    def on_response_complete(self) -> None:  # noqa: D102
        self.idle_since = time.monotonic()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether no request is answered."""
        return self.cycle is None or self.cycle.response_complete or self.transport.is_closing()

    def abort(self) -> None:
        """Close it, whatever has not been sent."""
        self.connections.discard(self)
        self.transport.abort()


class Server(uvicorn.Server):
    """Drains on SIGTERM: refuses new requests, and ends when none runs.

    Args:
        config: Uvicorn's; its `http` is made here.
        middleware: Refuses and counts.
        metrics: Counts connections.
        close_client: Ends what runs.
        drain_seconds: How long running requests have.
        max_connections, idle_seconds: As `Connection`.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        middleware: Middleware,
        metrics: Metrics,
        close_client: Callable[[], Any],
        drain_seconds: float,
        max_connections: int,
        idle_seconds: float,
    ) -> None:
        limits = {"max_connections": max_connections, "max_idle_seconds": idle_seconds}
        config.http = connection = type("LimitedConnection", (Connection,), limits)
        config.ws, config.timeout_keep_alive = "none", int(idle_seconds) + 1
        config.timeout_graceful_shutdown = _LAST_WORDS_SECONDS
        config.load()
        # Each connection makes its own TLS.
        self._tls, config.ssl = config.ssl, None
        connection.tls = self._tls
        super().__init__(config)
        self._middleware = middleware
        self._metrics = metrics
        self._close_client = close_client
        self._drain_seconds = drain_seconds
        self._idle_seconds = idle_seconds
        self._drain_ends_at: float | None = None

    def _log_started_message(self, listeners: Any) -> None:
        self.config.ssl = self._tls  # "running on https"
        super()._log_started_message(listeners)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain at the first signal; stop at the second."""
        self._middleware.is_draining = True
        now = time.monotonic()
        self._drain_ends_at = now + self._drain_seconds if self._drain_ends_at is None else now

    async def on_tick(self, counter: int) -> bool:
        """Look after connections and the drain."""
        now = time.monotonic()
        if counter % _TICKS_PER_SECOND == 0:
            connections: list[Any] = list(self.server_state.connections)
            self._metrics.connections.set(len(connections))
            for connection in connections:
                if connection.is_idle and now - connection.idle_since > self._idle_seconds:
                    connection.abort()
        if self._drain_ends_at is not None and (not self._middleware.num_running or now >= self._drain_ends_at):
            await self._close_client()
            self.should_exit = True
        return await super().on_tick(counter)
