"""The thread that sends responses to Triton, in order, and watches for callers who have gone.

Each call into Triton is a round trip between processes, too slow for the engine's event loop. And each response costs
CPU in half a dozen threads on its way to the caller, whether it holds one token or ten: at a response for each token,
many streams would take what an engine on the same cores needs. So what the engine makes while a stream waits for this
thread is one response. And where no core is free (cores.py), streams pause after a response, the more streams there
are, the longer: sending then takes a twentieth of this thread's time, and a stream pauses for MAX_PAUSE_SECONDS at
most.
"""

import heapq
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
from vllm.outputs import RequestOutput

from . import triton
from .errors import Internal, RequestError
from .tensors import strings

WATCH_SECONDS = 0.1
"""How often callers without a new response are looked at, and the metrics published."""
HEARTBEAT_SECONDS = 1.0
"""How long the relay may hear nothing of a request in the ensemble."""
MIN_SHARE = 0.05
"""The share of this thread's time for sending where no core is free; with a whole core free it is all of it."""
MAX_PAUSE_SECONDS = 0.25
"""The longest pause of a stream, however many there are."""

MakeTensors = Callable[[RequestOutput], Mapping[str, np.ndarray]]


@dataclass(eq=False, kw_only=True)
class ReplyChannel:
    """The way back to one request's caller.

    In the ensemble an error goes as a tensor, which the relay turns into the request's error. As an error of its own it
    would overtake the responses that are still on their way through the relay, and Triton before 26.02 never ends an
    ensemble's request in which one step fails while another is running.

    Inside the ensemble the relay notices only with a response that the caller has gone. A request that waits, whose
    prompt is read or that is answered in one piece has none: without heartbeats, responses that end in the relay, it
    would run to its end after its caller has gone.
    """

    sender: Any
    thread: "ResponseThread" = field(repr=False)
    generation_id: str
    is_in_ensemble: bool = False
    on_gone: Callable[[], None]
    """called by the thread once the caller has cancelled"""
    on_end: Callable[[RequestError | None], None]
    """called by the thread before the last response is sent, with the error if that is one"""
    on_sent: Callable[[], None] = lambda: None
    """called by the thread once Triton has the last response"""
    on_output: Callable[[RequestOutput], None] | None = None
    """called by the thread with what it is about to send"""
    resume_at: float = 0.0
    """until when it pauses"""
    sent_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.id = {"generation_id": strings([self.generation_id])}
        self._lock = threading.Lock()
        self._waiting: RequestOutput | None = None

    def put(self, output: RequestOutput, make_tensors: MakeTensors) -> None:
        """Queue what the engine gave; what it gives before that is sent joins it. A finished output is the last."""
        with self._lock:
            is_first = self._waiting is None
            if self._waiting is None:
                self._waiting = output
            else:
                self._waiting.add(output, aggregate=True)
        if is_first or output.finished:
            self.thread.put(_Item(self, make_tensors, is_urgent=output.finished))

    def take(self) -> RequestOutput | None:
        """Return what waits, if anything; from now on it is the thread's."""
        with self._lock:
            output, self._waiting = self._waiting, None
        return output

    def fail(self, error: RequestError) -> None:
        """Queue the error and the end as one response: apart, Triton 24.10 leaks the request."""
        self.thread.put(_Item(self, error=error, is_urgent=True))


@dataclass(frozen=True)
class _Item:
    """A channel that has something to send."""

    channel: ReplyChannel
    make_tensors: MakeTensors | None = None
    error: RequestError | None = None
    """the last response, instead of what waits"""
    is_urgent: bool = False
    """it does not pause"""


class ResponseThread:
    """Owns the sending thread. `every_watch` is called about every WATCH_SECONDS; `free_cores` says how many cores are
    free."""

    def __init__(self, every_watch: Callable[[], None], free_cores: Callable[[], float]) -> None:
        self._every_watch, self._free_cores = every_watch, free_cores
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._channels: set[ReplyChannel] = set()
        self._pausing: list[tuple[float, int, _Item]] = []
        self._numbers = count()
        self._is_open = True
        self._watch_at = 0.0
        self._paused_until = 0.0
        self._share = MIN_SHARE
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
        """Watch when it is time to, then send the next response if one comes before it is time for something else."""
        now = time.monotonic()
        if now >= self._watch_at:
            self._watch_at = now + WATCH_SECONDS
            self._watch_all(now)
        if self._pausing and self._pausing[0][0] <= now:
            self._send(heapq.heappop(self._pausing)[2])
            return
        next_at = min(self._watch_at, self._pausing[0][0]) if self._pausing else self._watch_at
        try:
            item = self._queue.get(timeout=max(0.0, next_at - time.monotonic()))
        except queue.Empty:
            return
        if item is None:
            self._is_open = False
        elif not item.is_urgent and item.channel.resume_at > time.monotonic():
            heapq.heappush(self._pausing, (item.channel.resume_at, next(self._numbers), item))
        else:
            self._send(item)

    def _send(self, item: _Item) -> None:
        channel, error = item.channel, item.error
        output = channel.take()
        if channel not in self._channels or (output is None and error is None):
            return  # it had its final response, or what waited went with an urgent one
        tensors: Mapping[str, np.ndarray] = {}
        if error is None and output is not None and item.make_tensors is not None:
            try:
                tensors = item.make_tensors(output)
                if channel.on_output is not None:
                    channel.on_output(output)
            except Exception as exc:  # noqa: BLE001 (a defect met by one request)
                error = Internal(f"{type(exc).__name__}: {exc}")
                channel.on_gone()
        self._deliver(channel, tensors, error, final=error is not None or (output is not None and output.finished))

    def _deliver(
        self, channel: ReplyChannel, tensors: Mapping[str, np.ndarray], error: RequestError | None, *, final: bool
    ) -> None:
        if final:
            self._channels.discard(channel)
            channel.on_end(error)
        content: Mapping[str, np.ndarray] | RequestError = {**tensors, **channel.id}
        if error is not None:
            content = {"error": strings([str(error)]), **channel.id} if channel.is_in_ensemble else error
        began = time.monotonic()
        try:
            channel.sender.send(triton.response(content), flags=triton.FINAL if final else 0)
        finally:
            if final:
                channel.on_sent()
        channel.sent_at = time.monotonic()
        channel.resume_at = self._pause_after(channel.sent_at - began, channel.sent_at)
        # In the ensemble it is the relay that is told. But a client that got its own ticket from `intake` has no relay.
        if not final and not (channel.is_in_ensemble and tensors):
            self._watch([channel])

    def _pause_after(self, seconds: float, now: float) -> float:
        """Return until when a stream pauses whose response took so long. Pauses of several streams follow each other: n
        streams pause n times as long."""
        pause = seconds * (1 / self._share - 1)
        self._paused_until = min(max(self._paused_until, now) + pause, now + MAX_PAUSE_SECONDS)
        return self._paused_until if pause else now

    def _watch_all(self, now: float) -> None:
        self._share = min(1.0, max(MIN_SHARE, self._free_cores()))
        channels = list(self._channels)
        for channel in channels:
            if channel.is_in_ensemble and now - channel.sent_at >= HEARTBEAT_SECONDS:
                self._deliver(channel, {}, None, final=False)
        self._watch(channel for channel in channels if not channel.is_in_ensemble)
        self._every_watch()

    def _watch(self, channels: Iterable[ReplyChannel]) -> None:
        for channel in channels:
            if channel in self._channels and channel.sender.is_cancelled():
                channel.on_gone()
