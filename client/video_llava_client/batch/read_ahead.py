"""Reads in a thread, so that an event loop never waits for a pipe."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """The items of an iterator that may wait, for the tasks of the running event loop; used in a `with` block.

    Args:
        items: Used by one thread only. If it waits when the block ends, that thread is left alone.
        num_ahead: How many items are read before a task asks for them.
        max_bytes: Of the items read before a task asks for them; one alone may have more.
        num_bytes: Returns the bytes of an item.
        order: Orders those that have been read when a task asks.
    """

    def __init__(
        self,
        items: Iterator[T],
        *,
        num_ahead: int,
        max_bytes: int,
        num_bytes: Callable[[T], int],
        order: Callable[[Iterable[T]], Iterable[T]],
    ) -> None:
        self._items = items
        self._num_ahead, self._max_bytes = num_ahead, max_bytes
        self._size, self._order = num_bytes, order
        self._queue: asyncio.Queue[T | BaseException | None] = asyncio.Queue()
        self._ordered = deque[T]()
        self._room = threading.Condition()
        self._num_held = self._num_bytes = 0
        self._loop = asyncio.get_running_loop()
        self._is_closed = False

    def __enter__(self) -> Self:
        # A daemon: Python does not wait for it at its end.
        threading.Thread(target=self._read, name="video-llava-reader", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._room:
            self._is_closed = True
            self._room.notify()

    async def next(self) -> T | None:
        """Return the next item, None after the last; raise what the iterator raised."""
        if not self._ordered:
            item = await self._queue.get()
            if item is None or isinstance(item, BaseException):
                self._queue.put_nowait(item)  # for the next call
                if item is not None:
                    raise item
                return None
            self._ordered.extend(self._order([item, *self._waiting()]))
        item = self._ordered.popleft()
        with self._room:
            self._num_held -= 1
            self._num_bytes -= self._size(item)
            self._room.notify()
        return item

    def _waiting(self) -> Iterator[T]:
        while not self._queue.empty():
            item = self._queue.get_nowait()
            if item is None or isinstance(item, BaseException):
                self._queue.put_nowait(item)
                return
            yield item

    def _read(self) -> None:
        try:
            for item in self._items:
                if not self._wait_for_room(self._size(item)):
                    return
                self._put(item)
            self._put(None)
        except BaseException as exc:  # noqa: BLE001 (`next` raises it)
            self._put(exc)

    def _wait_for_room(self, num_bytes: int) -> bool:
        """Take room for an item; return whether anybody still wants it."""

        def has_room() -> bool:
            fits = self._num_held < self._num_ahead and self._num_bytes + num_bytes <= self._max_bytes
            return fits or not self._num_held or self._is_closed

        with self._room:
            self._room.wait_for(has_room)
            self._num_held += 1
            self._num_bytes += num_bytes
        return not self._is_closed

    def _put(self, item: T | BaseException | None) -> None:
        # The loop may be closed, and then nobody asks for the item.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
