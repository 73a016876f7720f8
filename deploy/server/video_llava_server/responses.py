"""The thread that sends responses to Triton, in order, and watches for callers who have gone.

Each call into Triton is a round trip between processes, too slow for the engine's event loop. And each response costs
CPU in half a dozen threads on its way to the caller, whether it holds one token or ten: at a response for each token,
many streams would take what the engine itself needs. So after a response the stream pauses, and the more streams there
are, the longer; what the engine makes meanwhile is one response.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import triton
from .errors import RequestError
from .tensors import strings

WATCH_SECONDS = 0.1
"""How often callers without a new response are looked at, and the metrics published."""
PAUSE_FACTOR = 19
"""A response is followed by a pause of so many times its own sending time: sending takes a twentieth of the time."""
MAX_PAUSE_SECONDS = 0.25
"""The longest pause of a stream, however many there are."""

Content = dict[str, np.ndarray] | RequestError
"""One response: its tensors by name, or why there is none."""


@dataclass(eq=False, kw_only=True)
class ReplyChannel:
    """The way back to one request's caller.

    In the ensemble an error goes as a tensor, which the relay turns into the request's error. As an error of its own it
    would overtake the responses that are still on their way through the relay, and Triton before 26.02 never ends an
    ensemble's request in which one step fails while another is running.
    """

    sender: Any
    thread: "ResponseThread" = field(repr=False)
    generation_id: str
    is_in_ensemble: bool = False
    on_gone: Callable[[], None]
    """called by the thread once the caller has cancelled"""
    on_end: Callable[[RequestError | None], None]
    """called by the thread before the last response is sent, with the error if that is one"""

    async def send(self, tensors: dict[str, np.ndarray], *, final: bool) -> float:
        """Send one response and wait until Triton has it; return the seconds that the stream should pause."""
        sent: Future[float] = Future()
        self.thread.put(_Item(self, tensors | self._id(), final=final, sent=sent))
        return await asyncio.wrap_future(sent)

    async def send_heartbeat(self) -> None:
        """Send the relay a response that ends there, so that it can notice that the caller has gone."""
        await self.send({}, final=False)

    def fail(self, error: RequestError) -> None:
        """Queue the error and the end as one response: apart, Triton 24.10 leaks the request."""
        content = {"error": strings([str(error)])} | self._id() if self.is_in_ensemble else error
        self.thread.put(_Item(self, content, final=True, error=error))

    def _id(self) -> dict[str, np.ndarray]:
        return {"generation_id": strings([self.generation_id])}


@dataclass(frozen=True)
class _Item:
    """A response on its way."""

    channel: ReplyChannel
    content: Content
    final: bool
    sent: Future[float] = field(default_factory=Future)
    """resolved once Triton has it, or never will, with the seconds to pause"""
    error: RequestError | None = None
    """what the content says, in whatever form"""


class ResponseThread:
    """Owns the sending thread. `every_watch` is called about every WATCH_SECONDS."""

    def __init__(self, every_watch: Callable[[], None]) -> None:
        self._every_watch = every_watch
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._channels: set[ReplyChannel] = set()
        self._is_open = True
        self._watch_at = 0.0
        self._paused_until = 0.0
        self._thread = threading.Thread(target=self._run, name="responses", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def open(self, sender: Any, **options: Any) -> ReplyChannel:
        """Begin to answer one request; the options are ReplyChannel's."""
        channel = ReplyChannel(sender=sender, thread=self, **options)
        self._channels.add(channel)
        return channel

    def put(self, item: _Item) -> None:
        """Queue one response."""
        self._queue.put(item)

    def stop(self, *, timeout_seconds: float = 10.0) -> None:
        """Send what is queued and end the thread."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join(timeout=timeout_seconds)

    def _run(self) -> None:
        while self._is_open:
            try:
                self._step()
            except Exception as exc:  # noqa: BLE001 (one request's failure must not end the others' thread)
                triton.log_error(f"[vicuna] a response could not be sent: {exc!r}")

    def _step(self) -> None:
        """Watch when it is time to, then send the next response if one comes before it is time again."""
        if time.monotonic() >= self._watch_at:
            self._watch_at = time.monotonic() + WATCH_SECONDS
            self._watch([channel for channel in self._channels if not channel.is_in_ensemble])
            self._every_watch()
        try:
            item = self._queue.get(timeout=max(0.0, self._watch_at - time.monotonic()))
        except queue.Empty:
            return
        if item is None:
            self._is_open = False
            return
        began = time.monotonic()
        try:
            self._deliver(item)
        finally:
            # Who waited may have been stopped meanwhile.
            if item.sent.set_running_or_notify_cancel():
                item.sent.set_result(self._next_pause(began))

    def _next_pause(self, began: float) -> float:
        """Return the seconds to pause. Pauses of several streams follow each other: n streams pause n times as long."""
        now = time.monotonic()
        pause = PAUSE_FACTOR * (now - began)
        self._paused_until = min(max(self._paused_until, now) + pause, now + MAX_PAUSE_SECONDS)
        return self._paused_until - now

    def _deliver(self, item: _Item) -> None:
        channel = item.channel
        if channel not in self._channels:
            return  # it had its final response
        if item.final:
            self._channels.discard(channel)
            channel.on_end(item.error)
        channel.sender.send(triton.response(item.content), flags=triton.FINAL if item.final else 0)
        # In the ensemble it is the relay that is told. But a client that got its own ticket from `intake` has no relay.
        is_heartbeat = not isinstance(item.content, RequestError) and len(item.content) == 1
        if not item.final and (is_heartbeat or not channel.is_in_ensemble):
            self._watch([channel])

    def _watch(self, channels: Iterable[ReplyChannel]) -> None:
        for channel in channels:
            if channel in self._channels and channel.sender.is_cancelled():
                channel.on_gone()
