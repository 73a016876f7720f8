"""Streams of deltas: one for threads, one for asyncio."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, Self, TypeVar

from .answers import Answer
from .delta import Delta
from .driver import AsyncDriver, BlockingDriver, Driver, Finished
from .errors import Cancelled, StateError
from .stream_state import StreamState

D = TypeVar("D", bound=Driver[None])


class BaseStream(Generic[D]):
    """What both streams have in common; `start` begins the request, and its clock."""

    _with = "with"

    def __init__(self, start: Callable[[], D]) -> None:
        self._start = start
        self._driver: D | None = None
        self._state_or_none: StreamState | None = None
        self._is_closed = False

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
            StateError: The block has not begun.
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
            raise StateError(f"the stream is not open: write `{self._with} client.stream(...) as stream:`")
        return self._state_or_none

    def _open(self) -> D:
        if self._driver is not None:
            raise StateError(f"a stream serves one `{self._with}` block: ask again for another answer")
        if self._is_closed:
            raise Cancelled("the stream was closed before its block began: ask again")
        self._driver = self._start()
        return self._driver

    def _driver_to_read(self) -> D:
        _ = self._state
        assert self._driver is not None
        return self._driver


class AnswerStream(BaseStream[BlockingDriver[None]]):
    """An iterator of deltas; made by `VideoLlava.stream`.

    with client.stream("What happens?", video="clip.mp4") as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
    print(stream.answer.finish_reason)

    When the block begins, media are decoded and the request is sent. Leaving the block before the end cancels it on
    the server. One thread reads; any thread may `close`.
    """

    def __enter__(self) -> Self:
        self._state_or_none = self._open().advance()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the request unless its answer is complete; any thread may."""
        self._is_closed = True
        if self._driver is not None:
            self._driver.end(is_complete=self.is_complete)

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        """Wait for the next delta.

        Raises:
            ServerError: One of its kinds, with the deltas before it in `received`.
        """
        delta = self._driver_to_read().advance()
        if isinstance(delta, Finished):
            raise StopIteration
        return delta

    @property
    def text_stream(self) -> Iterator[str]:
        """The texts of the deltas that have one."""
        return (delta.text for delta in self if delta.text)

    def until_done(self) -> Answer:
        """Wait for the whole answer; errors as `__next__`."""
        for _ in self:
            pass
        return self.answer


class AsyncAnswerStream(BaseStream[AsyncDriver[None]]):
    """An asynchronous iterator of deltas; made by `AsyncVideoLlava.stream`.

    async with client.stream("What happens?", video="clip.mp4") as stream:
        async for delta in stream:
            print(delta.text, end="", flush=True)
    print(stream.answer.finish_reason)

    When the block begins, other threads decode the media, then the request is sent. Leaving the block before the end,
    or cancelling the task that reads, cancels the request on the server. One task reads; any task may `close`.
    """

    _with = "async with"

    async def __aenter__(self) -> Self:
        self._state_or_none = await self._open().advance()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._driver is not None:
            await self._driver.end(is_complete=self.is_complete)

    def close(self) -> None:
        """Cancel the request unless its answer is complete."""
        self._is_closed = True
        if self._driver is not None and not self.is_complete:
            self._driver.cancel()

    def __aiter__(self) -> AsyncIterator[Delta]:
        return self

    async def __anext__(self) -> Delta:
        """Wait for the next delta.

        Raises:
            ServerError: One of its kinds, with the deltas before it in `received`.
        """
        delta = await self._driver_to_read().advance()
        if isinstance(delta, Finished):
            raise StopAsyncIteration
        return delta

    @property
    def text_stream(self) -> AsyncIterator[str]:
        """The texts of the deltas that have one."""
        return (delta.text async for delta in self if delta.text)

    async def until_done(self) -> Answer:
        """Wait for the whole answer; errors as `__anext__`."""
        async for _ in self:
            pass
        return self.answer
