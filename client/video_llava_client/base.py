"""What the blocking client and the asyncio client have in common: their arguments, and all that does not wait."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc

from .attempts import Attempts
from .errors import Internal
from .exchange import Exchange
from .limits import MediaLimits
from .metadata import request_metadata
from .pool import Lane, Pool
from .request import Outgoing, Request, make_request, prepare
from .settings import (
    DEFAULT_TIMEOUT_SECONDS,
    MAX_MESSAGE_BYTES,
    Retry,
    Settings,
    Tls,
    Token,
    parse_addresses,
)
from .triton import from_rpc_error, read_frame_size


class BaseClient:
    """A client of a Triton server that serves Video-LLaVA, without its waiting.

    Args:
        url: `host:port` of the server's gRPC service, without a scheme; several, as a list or with commas between
            them, take turns. `dns:///host:port` does so with all addresses behind one name.
        timeout_seconds: How long an answer may take, from sending to its end, unless the request says otherwise.
        model: The name of the model on the server.
        tls: Encrypts the connection, `Tls()` or more; None does not.
        headers: gRPC metadata for every request.
        token: Sent as `authorization: Bearer …`; a callable is called for each attempt of each request.
        retry: When to ask again.
        connect_timeout_seconds: How long one attempt to connect may take.
        keepalive_seconds: How long a connection that waits for an answer is silent before it is tested. Triton cuts
            off clients that test more often than every 300 s, unless told otherwise; None does not test.
        media_limits: What a video or an image may be and cost.
        max_message_bytes: The largest request that is sent; Triton takes 2 GiB, a proxy before it perhaps less.

    Raises:
        OptionError: One of these cannot be used.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        model: str = "video_llava",
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: Token | None = None,
        retry: Retry | None = None,
        connect_timeout_seconds: float = 10.0,
        keepalive_seconds: float | None = 330.0,
        media_limits: MediaLimits | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._media_limits = media_limits or MediaLimits()
        self._settings = Settings(
            addresses=parse_addresses(url),
            model=model,
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=keepalive_seconds,
            max_message_bytes=max_message_bytes,
            tls=tls,
            headers=dict(headers or {}),
            token=token,
            retry=retry or Retry(),
        )
        self._pool = Pool(self._settings.addresses, self._open_channel)
        self._frame_sizes: dict[str, int] = {}
        self._frame_size_lock = self._new_lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, model={self.model!r})"

    @property
    def url(self) -> str:
        """The server's addresses, with commas between them."""
        return self._settings.url

    @property
    def model(self) -> str:
        """The name of the model on the server."""
        return self._settings.model

    @property
    def timeout_seconds(self) -> float:
        """How long an answer may take unless the request says otherwise."""
        return self._settings.timeout_seconds

    def _open_channel(self, address: str) -> Any:
        raise NotImplementedError

    def _new_lock(self) -> Any:
        raise NotImplementedError

    def _request(self, question: str | None, options: Mapping[str, Any]) -> Request:
        self._pool.check_open()
        return make_request(question, default_timeout_seconds=self.timeout_seconds, **options)

    def _outgoing(self, request: Request, frame_sizes: Mapping[str, int]) -> Outgoing:
        return prepare(
            request,
            model=self.model,
            frame_sizes=frame_sizes,
            max_message_bytes=self._settings.max_message_bytes,
            limits=self._media_limits,
        )

    def _exchange(self, outgoing: Outgoing, started: float) -> Exchange:
        return Exchange(outgoing, self._pool, self._settings, started=started)

    def _keep_frame_size(self, encoder: str, metadata: Any) -> int:
        try:
            size = self._frame_sizes[encoder] = read_frame_size(metadata)
        except ValueError as exc:
            raise Internal(f"{self.url}: {exc}") from exc
        return size


class Call:
    """One message there and one back, without the waiting: sent as often as it takes.

    Args:
        method: The name of one of `Methods`.
        message: What is sent.
    """

    def __init__(self, pool: Pool, settings: Settings, method: str, message: Any) -> None:
        self._pool = pool
        self._settings = settings
        self._method = method
        self._message = message
        self._attempts = Attempts(settings.retry, timeout_seconds=settings.timeout_seconds)
        self._lane: Lane | None = None

    def send(self, token: str) -> Any:
        """Send it to the address whose turn it is; return the reply, or with asyncio what is awaited for it.

        Raises:
            StateError: The client is closed.
        """
        lane = self._lane = self._pool.next()
        method: Callable[..., Any] = getattr(lane.methods, self._method)
        metadata = request_metadata(self._settings.headers, token=token)
        with self._pool.translated():
            return method(self._message, timeout=self._attempts.begin(), metadata=metadata)

    def wait_seconds(self, error: grpc.RpcError) -> float:
        """Return how long to wait before it is sent again.

        Raises:
            ServerError: It is not to be sent again; `error` is the cause.
        """
        assert self._lane is not None
        seconds = self._settings.timeout_seconds
        ours = from_rpc_error(error, url=self._lane.address, timeout_seconds=seconds)
        ours.__cause__ = error
        return self._attempts.wait_seconds(ours, at_once=self._pool.avoid(self._lane))
