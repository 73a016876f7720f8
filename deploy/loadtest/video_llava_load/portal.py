"""The way from Locust to the client: an asyncio event loop on a thread of its own.

Locust's users are greenlets; gRPC's streams are asyncio's. gRPC can be made to wait as gevent does
(`grpc.experimental.gevent`), but that is experimental, holds for the whole process, and needs Python's threads, in
which the client makes its messages, to be patched as well. So neither knows of the other: the users hand plans over,
records come back through a queue, and the one call of gevent's that other threads may make wakes the greenlet that
waits for them.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Self

import gevent
from gevent.event import Event
from video_llava_client import AsyncVideoLlava, Retry, ServerInfo, StateError

from .media import Pixels
from .plan import Plan
from .requests import Caller, Record
from .scenario import Requests

_STOP_SECONDS = 10.0


class Portal:
    """Runs plans on an event loop of its own; its methods are for greenlets of the thread that made it.

    Args:
        connection: The arguments of `AsyncVideoLlava`; unless `retry` is one of them, nothing is asked twice.
        requests: What requests are like.
        on_record: Called, in a greenlet, with each request that has ended.

    Attributes:
        num_under_way: How many plans are.
        info: What the server says of itself.
    """

    def __init__(
        self, connection: Mapping[str, Any], requests: Requests, *, on_record: Callable[[Record], None]
    ) -> None:
        self.num_under_way = 0
        self._connection = {"retry": Retry(num_attempts=1), **connection}
        self._requests = requests
        self._on_record = on_record
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="video-llava-load", daemon=True)
        self._returned: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._woken = Event()
        self._waker: Any = gevent.get_hub().loop.async_()
        self._client: AsyncVideoLlava | None = None
        self._caller: Caller | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self.info: ServerInfo | None = None

    def __enter__(self) -> Self:
        self._waker.start(self._woken.set)
        self._thread.start()
        self._receiver = gevent.spawn(self._receive)
        try:
            self._wait(self._connect())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def now(self) -> float:
        """Seconds since the beginning of the run."""
        return self._connected.now

    def begin(self) -> None:
        """Count the run's time from now on."""
        self._connected.begin()

    def prime(self) -> None:
        """Ask about each warm video once.

        Raises:
            ServerError: The server does not answer.
        """
        self._wait(self._prime())

    def submit(self, plan: Plan) -> Event:
        """Do what `plan` says, from now on; return what is set when it is done."""
        done, due = Event(), self.now
        self.num_under_way += 1
        self._loop.call_soon_threadsafe(self._start, plan, due, done)
        return done

    def drain(self, seconds: float, *, cut_short: Callable[[], bool]) -> None:
        """Wait so long for the requests under way, or until `cut_short()`, then cancel them; conversations break off.

        Raises what this tool itself did wrong meanwhile, if it did.
        """
        self._connected.is_ending = True
        self._wait_until_idle(seconds, cut_short)
        if self.num_under_way:
            self._wait(self._cancel_all())
            self._wait_until_idle(_STOP_SECONDS, lambda: False)
        if self._fault is not None:
            raise self._fault

    def close(self) -> None:
        """Cancel what is under way, close the client and end the thread."""
        self._wait(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_STOP_SECONDS)
        self._receiver.kill()
        self._waker.stop()
        self._waker.close()
        self._loop.close()

    @property
    def _connected(self) -> Caller:
        if self._caller is None:
            raise StateError("the portal is not open: use it in a `with` block")
        return self._caller

    # On the event loop.

    async def _connect(self) -> None:
        self._client = AsyncVideoLlava(**self._connection)
        self.info = await self._client.info()
        if self.info.limits is None:
            raise StateError(f"{self.info.url} does not say what its model takes: it is of an earlier release")
        pixels = Pixels(self.info.limits, num_warm=self._requests.warm_videos)
        self._caller = Caller(self._client, pixels, ignore_eos=self._requests.ignore_eos, on_record=self._hand_over)

    async def _prime(self) -> None:
        # Unlike the requests that count, it may be asked again.
        async with AsyncVideoLlava(**{**self._connection, "retry": Retry()}) as client:
            await self._connected.prime(client)

    def _start(self, plan: Plan, due: float, done: Event) -> None:
        task = self._loop.create_task(self._connected.run(plan, due))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._give_back(lambda: self._end(task, done))

        task.add_done_callback(ended)

    def _hand_over(self, record: Record) -> None:
        self._give_back(lambda: self._on_record(record))

    def _give_back(self, call: Callable[[], None]) -> None:
        self._returned.put(call)
        self._waker.send()

    async def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_STOP_SECONDS)

    async def _close(self) -> None:
        await self._cancel_all()
        if self._client is not None:
            await self._client.close()

    # In greenlets.

    def _wait_until_idle(self, seconds: float, cut_short: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while self.num_under_way and time.monotonic() < end and not cut_short():
            gevent.sleep(0.02)

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        """Wait, as greenlets do, for the end of `work` on the event loop; raises what it raises."""
        ended = Event()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.add_done_callback(lambda _: self._give_back(ended.set))
        ended.wait()
        future.result()

    def _end(self, task: asyncio.Task[None], done: Event) -> None:
        self.num_under_way -= 1
        done.set()
        if not task.cancelled() and self._fault is None:
            self._fault = task.exception()  # errors of the client's are in the records: this is none of them

    def _receive(self) -> None:
        while True:
            self._woken.wait()
            self._woken.clear()
            while not self._returned.empty():
                self._returned.get_nowait()()
