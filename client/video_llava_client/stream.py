"""One request under way, for threads: an iterator of deltas inside a `with` block."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc

from .answers import Answer, Delta
from .errors import ServerError, StateError
from .exchange import Exchange
from .metadata import read_token
from .settings import Token


class AnswerStream:
    """The answer while it is written; made by `VideoLlava.stream`.

    with client.stream("What happens?", video="clip.mp4") as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
    print(stream.answer.finish_reason)

    The request is sent where the block begins. Leaving the block before the end cancels it on the server.
    For one thread, except `close`.
    """

    def __init__(self, exchange: Exchange, token: Token | None) -> None:
        self._exchange = exchange
        self._token = token
        self._call: Any = None
        self._closed = threading.Event()
        self._deltas = self._read()

    def __repr__(self) -> str:
        state = "finished" if self._exchange.is_complete else f"{self._exchange.num_deltas} deltas received"
        return f"AnswerStream({self.request_id!r}, {state})"

    @property
    def request_id(self) -> str:
        """The request's id, as the server's log has it."""
        return self._exchange.request_id

    @property
    def is_complete(self) -> bool:
        """Whether the answer has come to its end."""
        return self._exchange.is_complete

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            StateError: It is not complete yet, or never will be.
        """
        return self._exchange.answer

    def __enter__(self) -> Self:
        if self._call is not None:
            raise StateError("a stream serves one `with` block: ask again for another answer")
        self._send()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the request unless its answer is complete; any thread may."""
        self._closed.set()
        if self._call is not None and not self._exchange.is_complete:
            self._call.cancel()

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        """Wait for the next delta.

        Raises:
            ServerError: One of its kinds, with the deltas before it in `received`.
        """
        if self._call is None:
            raise StateError("the stream is not open: write `with client.stream(...) as stream:`")
        return next(self._deltas)

    def _read(self) -> Iterator[Delta]:
        while True:
            try:
                yield from self._read_attempt()
                return
            except ServerError as exc:
                seconds = self._exchange.wait_seconds(exc)
                if self._closed.wait(seconds):
                    raise
            self._send()

    def _read_attempt(self) -> Iterator[Delta]:
        for message in self._messages():
            delta = self._exchange.take(message)
            if self._exchange.is_complete:
                self._let_it_end()
            if delta is not None:
                yield delta
            if self._exchange.is_complete:
                return
        raise self._exchange.interrupted()

    def _messages(self) -> Iterator[Any]:
        try:
            yield from self._call
        except grpc.RpcError as exc:
            raise self._exchange.error_of(exc) from exc
        except KeyboardInterrupt:
            self._exchange.interrupted_by_signal()
            raise

    def _send(self) -> None:
        self._call = self._exchange.send(read_token(self._token))
        # Closed by another thread meanwhile, it could not have been cancelled there.
        if self._closed.is_set():
            self._call.cancel()

    def _let_it_end(self) -> None:
        # The server ends the stream right after the final response; letting it do so spares it a cancelled stream.
        with suppress(grpc.RpcError):
            for _ in self._call:
                pass
