"""One call to the server, without its I/O: which replica it goes to, and when it is sent again."""

from collections.abc import Sequence
from typing import Any

import grpc

from .delta import Delta
from .errors import ServerError, is_draining
from .metadata import request_metadata
from .pool import Pool, Replica
from .retry import Attempts
from .settings import Settings
from .triton import from_rpc_error


class Call:
    """A message for one of Triton's methods, sent until it succeeds or `Retry` gives up.

    Args:
        method: The name of one of `Methods`.
        message: What is sent.
        timeout_seconds: For all attempts together; None: the client's own.
        request_id: Its id, "" for none.
        digest: Of its media, "" for none.
    """

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        method: str,
        message: Any,
        *,
        timeout_seconds: float | None = None,
        request_id: str = "",
        digest: str = "",
    ) -> None:
        self.request_id = request_id
        self._pool = pool
        self._settings = settings
        self._method = method
        self._message = message
        self._timeout_seconds = timeout_seconds or settings.timeout_seconds
        self._digest = digest
        self._attempts = Attempts(settings.retry, timeout_seconds=self._timeout_seconds)
        self._replica: Replica | None = None

    @property
    def url(self) -> str:
        """The address of the last attempt; before the first, all addresses."""
        return self._replica.address if self._replica else self._settings.url

    def send(self, token: str) -> Any:
        """Send the message to the next replica; return what gRPC returns."""
        replica = self._replica = self._pool.next()
        metadata = request_metadata(self._settings.headers, digest=self._digest, token=token)
        method = getattr(replica.methods, self._method)
        with self._pool.closed_as_state_error():
            return method(self._message, timeout=self._attempts.begin(), metadata=metadata)

    def error_from(self, error: grpc.RpcError, received: Sequence[Delta] = ()) -> ServerError:
        """Return the error of this package for one of gRPC's."""
        translated = from_rpc_error(
            error, url=self.url, timeout_seconds=self._timeout_seconds, request_id=self.request_id, received=received
        )
        translated.__cause__ = error
        return translated

    def retry_delay(self, error: ServerError) -> float:
        """Return the seconds to wait before the next `send`; raise `error` if there is to be none."""
        # A server that is full says so in the stream and is not avoided; one that is gone makes gRPC raise the error.
        is_gone = is_draining(error) or isinstance(error.__cause__, grpc.RpcError)
        at_once = is_gone and self._replica is not None and self._pool.avoid(self._replica)
        return self._attempts.delay_seconds(error, at_once=at_once)
