"""Reads in a thread, so that an event loop never waits for a pipe."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class ReadAhead(Generic[T]):
    """The items of an iterator that may wait, for the tasks of the running event loop; used in a `with` block.

    Args:
        items: Used by one thread only. If it waits when the block ends, that thread is left alone.
        num_ahead: How many items are read before a task asks for them.
    """

    def __init__(self, items: Iterator[T], *, num_ahead: int) -> None:
        self._items = items
        self._queue: asyncio.Queue[T | BaseException | None] = asyncio.Queue()
        self._room = threading.Semaphore(num_ahead)
        self._loop = asyncio.get_running_loop()
        self._is_closed = False

    def __enter__(self) -> Self:
        # A daemon: Python does not wait for it at its end.
        threading.Thread(target=self._read, name="video-llava-reader", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_closed = True
        self._room.release()

    async def next(self) -> T | None:
        """Return the next item, None after the last; raise what the iterator raised."""
        item = await self._queue.get()
        if item is None or isinstance(item, BaseException):
            self._queue.put_nowait(item)  # for the other tasks
            if item is not None:
                raise item
            return None
        self._room.release()
        return item

    def _read(self) -> None:
        try:
            for item in self._items:
                self._room.acquire()
                if self._is_closed:
                    return
                self._put(item)
            self._put(None)
        except BaseException as exc:  # noqa: BLE001 (`next` raises it)
            self._put(exc)

    def _put(self, item: T | BaseException | None) -> None:
        # The loop may be closed, and then nobody asks for the item.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
