"""Streams of deltas: one for threads, one for asyncio."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any, Self

import grpc

from .answers import Answer
from .delta import Delta
from .errors import Cancelled, ServerError, StateError
from .metadata import read_token, read_token_async
from .settings import Token
from .stream_state import StreamState

# How long a cancelled call may take to end; it waits for no server.
_END_SECONDS = 1.0


class BaseStream:
    """What both streams have in common."""

    _with = "with"

    def __init__(self, state: StreamState | None, token: Token | None) -> None:
        self._state_or_none = state
        self._token = token
        self._call: Any = None

    def __repr__(self) -> str:
        state = self._state_or_none
        if state is None:
            return f"{type(self).__name__}(not sent)"
        progress = "finished" if state.is_complete else f"{len(state.deltas)} deltas received"
        return f"{type(self).__name__}({state.request_id!r}, {progress})"

    @property
    def request_id(self) -> str:
        """The id of the request, as in the server's log.

        Raises:
            StateError: An asyncio stream whose block has not begun.
        """
        return self._state.request_id

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer has arrived."""
        return self._state_or_none is not None and self._state_or_none.is_complete

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            StateError: It is not complete.
        """
        return self._state.answer

    @property
    def _state(self) -> StreamState:
        if self._state_or_none is None:
            raise self._not_open()
        return self._state_or_none

    def _not_open(self) -> StateError:
        return StateError(f"the stream is not open: write `{self._with} client.stream(...) as stream:`")

    def _used_twice(self) -> StateError:
        return StateError(f"a stream serves one `{self._with}` block: ask again for another answer")


class AnswerStream(BaseStream):
    """An iterator of deltas; made by `VideoLlava.stream`.

    with client.stream("What happens?", video="clip.mp4") as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
    print(stream.answer.finish_reason)

    The request is sent when the block begins. Leaving the block before the end cancels it on the server.
    One thread reads; any thread may `close`.
    """

    def __init__(self, state: StreamState, token: Token | None) -> None:
        super().__init__(state, token)
        self._closed = threading.Event()
        self._deltas = self._read()

    def __enter__(self) -> Self:
        if self._call is not None:
            raise self._used_twice()
        self._send()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the request unless its answer is complete; any thread may."""
        self._closed.set()
        ended = threading.Event()
        if self._call is not None and not self.is_complete and self._call.add_callback(ended.set):
            self._call.cancel()
            # gRPC's thread takes a lock of the call when it ends. If Python stops that thread meanwhile, because the
            # program ends, the call's destructor waits for the lock for ever.
            ended.wait(_END_SECONDS)

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        """Wait for the next delta.

        Raises:
            ServerError: One of its kinds, with the deltas before it in `received`.
        """
        if self._call is None:
            raise self._not_open()
        return next(self._deltas)

    def _read(self) -> Iterator[Delta]:
        while True:
            try:
                yield from self._read_attempt()
                return
            except ServerError as exc:
                if self._closed.wait(self._state.retry_delay(exc)):
                    raise
            self._send()

    def _read_attempt(self) -> Iterator[Delta]:
        for message in self._messages():
            delta = self._state.receive(message)
            if self.is_complete:
                # The server ends the stream right after the final response: reading to the end avoids a cancellation.
                with suppress(grpc.RpcError):
                    list(self._call)
            if delta is not None:
                yield delta
            if self.is_complete:
                return
        raise self._state.interrupted()

    def _messages(self) -> Iterator[Any]:
        try:
            yield from self._call
        except grpc.RpcError as exc:
            raise self._state.error_from(exc, self._state.deltas) from exc
        except KeyboardInterrupt:
            self._state.replace_channel()
            raise

    def _send(self) -> None:
        self._call = self._state.send(read_token(self._token))
        # Another thread may have called `close` before the call existed.
        if self._closed.is_set():
            self._call.cancel()


class AsyncAnswerStream(BaseStream):
    """An asynchronous iterator of deltas; made by `AsyncVideoLlava.stream`.

    async with client.stream("What happens?", video="clip.mp4") as stream:
        async for delta in stream:
            print(delta.text, end="", flush=True)
    print(stream.answer.finish_reason)

    When the block begins, other threads decode the media, then the request is sent. Leaving the block before the end,
    or cancelling its task, cancels the request on the server.
    """

    _with = "async with"

    def __init__(self, prepare: Callable[[], Awaitable[StreamState]], token: Token | None) -> None:
        super().__init__(None, token)
        self._prepare = prepare
        self._is_used = False
        self._deltas = self._read()

    def close(self) -> None:
        """Cancel the request unless its answer is complete."""
        if self._call is not None and not self.is_complete:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        if self._is_used:
            raise self._used_twice()
        self._is_used = True
        self._state_or_none = await self._prepare()
        await self._send()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()
        await self._deltas.aclose()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        """Wait for the next delta.

        Raises:
            ServerError: One of its kinds, with the deltas before it in `received`.
        """
        _ = self._state
        return await anext(self._deltas)

    async def _read(self) -> AsyncGenerator[Delta, None]:
        while True:
            try:
                async for delta in self._read_attempt():
                    yield delta
                return
            except ServerError as exc:
                await asyncio.sleep(self._state.retry_delay(exc))
            await self._send()

    async def _read_attempt(self) -> AsyncIterator[Delta]:
        async for message in self._messages():
            delta = self._state.receive(message)
            if self.is_complete:
                # As the blocking stream does.
                with suppress(grpc.RpcError):
                    _ = [message async for message in self._call]
            if delta is not None:
                yield delta
            if self.is_complete:
                return
        raise self._state.interrupted()

    async def _messages(self) -> AsyncIterator[Any]:
        try:
            async for message in self._call:
                yield message
        except grpc.RpcError as exc:
            raise self._state.error_from(exc, self._state.deltas) from exc
        except asyncio.CancelledError as exc:
            # gRPC raises this if the call was cancelled by `close`; asyncio, if this task was cancelled.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            message = "the request was cancelled: its stream or its client was closed"
            raise Cancelled(message, request_id=self.request_id) from exc

    async def _send(self) -> None:
        self._call = self._state.send(await read_token_async(self._token))
