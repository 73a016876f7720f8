"""One call to the server, as steps: which replica it goes to, and when it is sent again."""

import logging
from collections.abc import Sequence
from typing import Any

import grpc

from .deadline import Deadline
from .delta import Delta
from .errors import ServerError, Unavailable, is_draining
from .metadata import request_metadata
from .pool import AVOID_SECONDS, Pool, Replica
from .retry import Attempts
from .settings import Settings
from .steps import ReadToken, Receive, Result, Sleep, Step, Steps
from .triton import from_rpc_error

_log = logging.getLogger(__package__)


class Call:
    """A message for one of Triton's methods, sent until it succeeds or `Retry` gives up.

    Args:
        pool: The replicas it may go to.
        settings: The client's own, or the request's.
        method: The name of one of `Methods`.
        message: What is sent.
        deadline: For all attempts together.
        request_id: Its id, "" for none.
        digest: Of its media, "" for none.
    """

    def __init__(
        self,
        pool: Pool,
        settings: Settings,
        method: str,
        message: Any,
        deadline: Deadline,
        *,
        request_id: str = "",
        digest: str = "",
    ) -> None:
        self.request_id = request_id
        self._pool = pool
        self._settings = settings
        self._method = method
        self._message = message
        self._deadline = deadline
        self._digest = digest
        self._attempts = Attempts(settings.retry, deadline)
        self._replica: Replica | None = None

    @property
    def url(self) -> str:
        """The address of the last attempt; before the first, all addresses."""
        return self._replica.address if self._replica else self._settings.url

    @property
    def num_attempts(self) -> int:
        """How often it was sent."""
        return self._attempts.num

    def reply(self) -> Steps[Any]:
        """Send the message to a method with one reply; return that."""
        while True:
            try:
                call = yield from self.send()
                return (yield from self.wait(Result(call)))
            except ServerError as exc:
                yield from self.back_off(exc)

    def send(self) -> Steps[Any]:
        """Send the message to the next replica; return gRPC's call."""
        token = yield ReadToken()
        metadata = request_metadata(self._settings.headers, digest=self._digest, token=token)
        replica = self._replica = self._pool.next(digest=self._digest, takes_turn=self._method != "model_config")
        self._attempts.num += 1
        _log.debug("request %s: attempt %d goes to %s", self.request_id or self._method, self._attempts.num, self.url)
        seconds = self._deadline.remaining_seconds
        return self._pool.send(replica, self._method, self._message, timeout=seconds, metadata=metadata)

    def wait(self, step: Step, received: Sequence[Delta] = ()) -> Steps[Any]:
        """Return the result of a step that waits for the server; its errors become those of this package."""
        try:
            return (yield step)
        except grpc.RpcError as exc:
            raise self._error_from(exc, received) from exc
        except ServerError as exc:  # the deadline, or a cancellation
            exc.request_id, exc.received = self.request_id, tuple(received)
            raise
        except TimeoutError as exc:
            assert isinstance(step, Receive)
            message = f"{self.url} sent nothing within Timeouts first_token={step.timeout_seconds:g}: is it overloaded?"
            raise Unavailable(message, request_id=self.request_id) from exc
        except KeyboardInterrupt:
            # It was raised inside gRPC, which may still hold locks of the channel.
            if self._replica is not None:
                self._pool.replace_channel(self._replica)
            raise

    def back_off(self, error: ServerError) -> Steps[None]:
        """Wait before the next `send`; raise `error` if there is to be none."""
        seconds = self._attempts.delay_seconds(error, at_once=self._avoid(error))
        _log.info(
            "request %s: attempt %d at %s failed (%s); the next in %.2f s",
            self.request_id or self._method,
            self._attempts.num,
            self.url,
            error,
            seconds,
        )
        yield Sleep(seconds)

    def _avoid(self, error: ServerError) -> bool:
        """Skip a replica that is gone, or full for some seconds; return whether another one can be tried at once."""
        # One that is gone or silent makes gRPC or the clock raise the error; other errors come in the stream.
        is_gone = is_draining(error) or isinstance(error.__cause__, grpc.RpcError | TimeoutError)
        seconds = AVOID_SECONDS if is_gone else getattr(error, "retry_after_seconds", None)
        return self._replica is not None and seconds is not None and self._pool.avoid(self._replica, seconds)

    def _error_from(self, error: grpc.RpcError, received: Sequence[Delta]) -> ServerError:
        return from_rpc_error(
            error,
            url=self.url,
            timeout_seconds=self._deadline.timeout_seconds,
            request_id=self.request_id,
            received=received,
        )
