"""One request under way, without its waiting: what the blocking and the asyncio stream have in common."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import grpc

from .answers import Answer, ClientFacts, Delta, join
from .attempts import Attempts
from .errors import Internal, InterruptedStream, ServerError, StateError, from_error_text, is_leaving
from .metadata import request_metadata
from .pool import Lane, Pool
from .request import Outgoing
from .settings import Settings
from .triton import Response, from_rpc_error, read_response


class Exchange:
    """Sends a request, as often as it takes, and keeps what has come back.

    Args:
        outgoing: The request.
        pool: Where it may go.
        settings: The client's own.
        started: `time.perf_counter()` when the caller asked.
    """

    def __init__(self, outgoing: Outgoing, pool: Pool, settings: Settings, *, started: float) -> None:
        self._outgoing = outgoing
        self._pool = pool
        self._settings = settings
        self._started = started
        self._attempts = Attempts(settings.retry, timeout_seconds=outgoing.timeout_seconds)
        self._lane: Lane | None = None
        self._first_sent = self._sent = self._first_text = 0.0
        self._received: list[Delta] = []
        self._answer: Answer | None = None

    @property
    def request_id(self) -> str:
        """The request's id, as the server's log has it."""
        return self._outgoing.request_id

    @property
    def num_deltas(self) -> int:
        """How many deltas have come."""
        return len(self._received)

    @property
    def is_complete(self) -> bool:
        """Whether the answer has come to its end."""
        return self._answer is not None

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            StateError: It is not complete yet, or never will be.
        """
        if self._answer is None:
            raise StateError("the answer is not complete: iterate over the stream to its end first")
        return self._answer

    def send(self, token: str) -> Any:
        """Send the request to the address whose turn it is; return gRPC's call.

        Raises:
            StateError: The client is closed.
        """
        lane = self._lane = self._pool.next()
        timeout_seconds = self._attempts.begin()
        self._sent = time.perf_counter()
        self._first_sent = self._first_sent or self._sent
        metadata = request_metadata(self._settings.headers, digest=self._outgoing.digest, token=token)
        with self._pool.translated():
            return lane.methods.stream_infer(self._outgoing.message, timeout=timeout_seconds, metadata=metadata)

    def take(self, message: Any) -> Delta | None:
        """Read one message of the stream; return what was written since the last, if anything.

        Raises:
            ServerError: The message says so, or cannot be understood.
        """
        try:
            response = read_response(message)
            if response.error:
                raise from_error_text(response.error, request_id=self.request_id, received=self._received)
            delta = self._keep(response)
            if response.is_final:
                self._answer = join(self._received, self._client_facts())
        except (KeyError, ValueError, TypeError, IndexError) as exc:
            raise self._nonsense(exc) from exc
        return delta

    def wait_seconds(self, error: ServerError) -> float:
        """Return how long to wait before the request is sent again; raise `error` if it is not to be."""
        # A server that is full, or about to stop, says so in the stream; one that cannot be reached makes gRPC say it.
        lost = self._lane if is_leaving(error) or isinstance(error.__cause__, grpc.RpcError) else None
        return self._attempts.wait_seconds(error, at_once=lost is not None and self._pool.avoid(lost))

    def interrupted_by_signal(self) -> None:
        """Leave the channel to its fate: an exception out of a signal may have left gRPC's own locks taken."""
        if self._lane is not None:
            self._pool.renew(self._lane)

    def error_of(self, error: grpc.RpcError) -> ServerError:
        """Return the error of ours that one of gRPC's stands for."""
        return from_rpc_error(
            error,
            url=self._url,
            timeout_seconds=self._outgoing.timeout_seconds,
            request_id=self.request_id,
            received=self._received,
        )

    def interrupted(self) -> InterruptedStream:
        """Return the error for a stream that ended before its answer did."""
        return InterruptedStream(
            f"{self._url} ended the stream before the answer was complete: ask again",
            request_id=self.request_id,
            received=self._received,
        )

    @property
    def _url(self) -> str:
        return self._lane.address if self._lane else self._settings.url

    def _keep(self, response: Response) -> Delta | None:
        # The mark of the end may come alone, after the last delta.
        if not response.outputs:
            return None
        delta = Delta.from_outputs(response.outputs)
        if not self._first_text:
            # The model writes on after `ASSISTANT:`, so its first word brings a space along.
            delta = replace(delta, text=delta.text.lstrip())
            self._first_text = time.perf_counter() if delta.text else 0.0
        self._received.append(delta)
        return delta

    def _client_facts(self) -> ClientFacts:
        now = time.perf_counter()
        outgoing = self._outgoing
        return ClientFacts(
            decode_seconds=outgoing.decode_seconds,
            preprocess_seconds=outgoing.preprocess_seconds,
            retries_seconds=self._sent - self._first_sent,
            answering_seconds=now - self._sent,
            first_token_seconds=self._first_text - self._first_sent if self._first_text else None,
            total_seconds=now - self._started,
            frames=outgoing.frames,
            num_reused_clips=outgoing.num_reused_clips,
            request_id=self.request_id,
            num_attempts=self._attempts.num,
        )

    def _nonsense(self, cause: Exception) -> Internal:
        return Internal(
            f"{self._url} answered what this client cannot read ({type(cause).__name__}: {cause}): "
            "are client and model repository of the same release?",
            request_id=self.request_id,
            received=self._received,
        )
