"""One request under way, for asyncio: an asynchronous iterator of deltas inside an `async with` block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import grpc

from .answers import Answer, Delta
from .errors import Cancelled, ServerError, StateError
from .exchange import Exchange
from .metadata import read_token_async
from .settings import Token


class AsyncAnswerStream:
    """The answer while it is written; made by `AsyncVideoLlava.stream`.

    async with client.stream("What happens?", video="clip.mp4") as stream:
        async for delta in stream:
            print(delta.text, end="", flush=True)
    print(stream.answer.finish_reason)

    Media are decoded, by other threads, and the request is sent where the block begins. Leaving the block before the
    end, or cancelling its task, cancels it on the server.
    """

    def __init__(self, prepare: Callable[[], Awaitable[Exchange]], token: Token | None) -> None:
        self._prepare = prepare
        self._token = token
        self._started = False
        self._prepared: Exchange | None = None
        self._call: Any = None
        self._deltas = self._read()

    def __repr__(self) -> str:
        exchange = self._prepared
        if exchange is None:
            return "AsyncAnswerStream(not sent)"
        state = "finished" if exchange.is_complete else f"{exchange.num_deltas} deltas received"
        return f"AsyncAnswerStream({exchange.request_id!r}, {state})"

    @property
    def request_id(self) -> str:
        """The request's id, as the server's log has it.

        Raises:
            StateError: The block has not begun.
        """
        return self._exchange.request_id

    @property
    def is_complete(self) -> bool:
        """Whether the answer has come to its end."""
        return self._prepared is not None and self._prepared.is_complete

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            StateError: It is not complete yet, or never will be.
        """
        return self._exchange.answer

    async def __aenter__(self) -> Self:
        if self._started:
            raise StateError("a stream serves one `async with` block: ask again for another answer")
        self._started = True
        self._prepared = await self._prepare()
        await self._send()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        await self._deltas.aclose()

    def close(self) -> None:
        """Cancel the request unless its answer is complete."""
        if self._call is not None and not self.is_complete:
            self._call.cancel()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        """Wait for the next delta.

        Raises:
            ServerError: One of its kinds, with the deltas before it in `received`.
        """
        _ = self._exchange
        return await anext(self._deltas)

    @property
    def _exchange(self) -> Exchange:
        if self._prepared is None:
            raise StateError("the stream is not open: write `async with client.stream(...) as stream:`")
        return self._prepared

    async def _read(self) -> AsyncGenerator[Delta, None]:
        while True:
            try:
                async for delta in self._read_attempt():
                    yield delta
                return
            except ServerError as exc:
                await asyncio.sleep(self._exchange.wait_seconds(exc))
            await self._send()

    async def _read_attempt(self) -> AsyncIterator[Delta]:
        async for message in self._messages():
            delta = self._exchange.take(message)
            if self._exchange.is_complete:
                await self._let_it_end()
            if delta is not None:
                yield delta
            if self._exchange.is_complete:
                return
        raise self._exchange.interrupted()

    async def _messages(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        except grpc.RpcError as exc:
            raise self._exchange.error_of(exc) from exc
        except asyncio.CancelledError as exc:
            # gRPC raises the same where the call was cancelled, by `close`, and where this task was.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            message = "the request was cancelled: its stream or its client was closed"
            raise Cancelled(message, request_id=self.request_id) from exc

    async def _send(self) -> None:
        self._call = self._exchange.send(await read_token_async(self._token))

    async def _let_it_end(self) -> None:
        # The server ends the stream right after the final response; letting it do so spares it a cancelled stream.
        with suppress(grpc.RpcError):
            async for _ in self._call:
                pass
