"""The client's asyncio event loop, on a thread of its own, and how Locust's greenlets use it.

Locust's users are gevent's greenlets; the client's streams belong to asyncio. gRPC has a gevent mode
(`grpc.experimental.gevent`), but it is experimental, changes the whole process, and needs gevent's monkey patching.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

import gevent
from gevent.event import Event

T = TypeVar("T")
Work = Coroutine[Any, Any, T]

_STOP_SECONDS = 10.0


class EventLoop:
    """Runs coroutines. Its methods are for greenlets of the thread that created it."""

    def __init__(self) -> None:
        self._hub: Any = gevent.get_hub()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="video-llava-load", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: set[Event] = set()
        self._fault: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(self._cancel())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        self._loop.close()

    def start(self, work: Work[None]) -> Event:
        """Run `work` in the background and return an event that is set when it ends."""
        done = Event()
        self._running.add(done)
        self._loop.call_soon_threadsafe(self._start, work, done)
        return done

    def wait(self, work: Work[T]) -> T:
        """Run `work` to its end, while other greenlets go on; return or raise what it does."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        while not future.done():
            gevent.sleep(0.01)
        return future.result()

    def drain(self, seconds: float, *, cut_short: Callable[[], bool]) -> None:
        """Wait this long for what `start` got, or until `cut_short()`, then cancel it; raise what it raised."""
        end = time.monotonic() + seconds
        while self._running and time.monotonic() < end and not cut_short():
            gevent.sleep(0.02)
        self.wait(self._cancel())
        if self._fault is not None:
            raise self._fault

    def _start(self, work: Work[None], done: Event) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda task: self._ended(task, done))

    def _ended(self, task: asyncio.Task[None], done: Event) -> None:
        self._tasks.discard(task)
        self._running.discard(done)
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()
        self._hub.loop.run_callback_threadsafe(done.set)

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)
