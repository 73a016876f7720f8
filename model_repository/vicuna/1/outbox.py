"""The thread that talks back to Triton: it sends responses in order and watches for callers that have gone.

Each call into Triton is a round trip between processes, too slow for the engine's event loop. And each response takes
CPU in half a dozen threads on its way to the caller, whether it holds one token or ten; one for every token of many
answers takes what the engine itself needs. So the more callers there are, the fewer and longer are their responses.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

from .errors import Cancelled, InvalidArgument, RequestError, Unavailable

WATCH_SECONDS = 0.1
"""How often callers without a new response are looked at, and the metrics published."""
REST = 19
"""How many times as long as the last response took there is none: sending takes a twentieth of the time."""
MAX_REST_SECONDS = 0.25
"""However many callers there are, the next response comes no later than that, if there is anything to say."""

Content = dict[str, np.ndarray] | RequestError
"""One response: its tensors by name, or why there is none."""


@dataclass(frozen=True)
class _Item:
    """A response on its way to a caller."""

    caller: "Caller"
    content: Content
    final: bool
    on_sent: Callable[[float], object]
    error: RequestError | None


_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


@dataclass(eq=False, kw_only=True)
class Caller:
    """The way back to one request's caller; what `generations.Replies` asks for.

    Behind a relay (`has_relay`) an error goes as a tensor, which the relay turns into the request's error. As an error
    of its own it would overtake the responses that are still on their way through the relay, and Triton before 26.02
    never ends an ensemble's request in which one step fails while another is running.
    """

    sender: Any
    outbox: "Outbox"
    generation_id: str
    has_relay: bool
    on_gone: Callable[[], None]
    on_end: Callable[[RequestError | None], None]

    async def send(self, tensors: dict[str, np.ndarray], *, final: bool) -> float:
        """Send one response and wait until Triton has it; return the seconds until it is this caller's turn again.

        What the engine makes until then is to be one response: there are fewer and longer ones, and no queue of them.
        """
        sent: Future[float] = Future()
        # Who waited may have been stopped meanwhile.
        self._put(
            tensors, final=final, on_sent=lambda rest: sent.set_running_or_notify_cancel() and sent.set_result(rest)
        )
        return await asyncio.wrap_future(sent)

    async def pulse(self) -> None:
        """Send the relay a response with nothing but the generation's id, which it keeps to itself."""
        await self.send({}, final=False)

    def fail(self, error: RequestError) -> None:
        """Queue the error and the end as one response: apart, Triton 24.10 leaks the request."""
        if self.has_relay:
            self._put({"error": _string(str(error))}, final=True, error=error)
        else:
            self.outbox.put(self, error, final=True, error=error)

    def _put(
        self,
        tensors: dict[str, np.ndarray],
        *,
        final: bool,
        on_sent: Callable[[float], object] = lambda _rest: None,
        error: RequestError | None = None,
    ) -> None:
        content = {**tensors, "generation_id": _string(self.generation_id)}
        self.outbox.put(self, content, final=final, on_sent=on_sent, error=error)


class Outbox:
    """Owns the sending thread. `every_watch` is called about every WATCH_SECONDS."""

    def __init__(self, every_watch: Callable[[], None]) -> None:
        self._every_watch = every_watch
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._callers: set[Caller] = set()
        self._is_open = True
        self._watch_at = 0.0
        self._next_turn = 0.0
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def open(
        self,
        sender: Any,
        *,
        generation_id: str,
        has_relay: bool,
        on_gone: Callable[[], None],
        on_end: Callable[[RequestError | None], None],
    ) -> Caller:
        """Begin to answer one request. From the outbox's thread, `on_gone` is called once its caller has cancelled
        and `on_end` before its last response is sent, with the error if that is one."""
        caller = Caller(
            sender=sender,
            outbox=self,
            generation_id=generation_id,
            has_relay=has_relay,
            on_gone=on_gone,
            on_end=on_end,
        )
        self._callers.add(caller)
        return caller

    def put(
        self,
        caller: Caller,
        content: Content,
        *,
        final: bool,
        on_sent: Callable[[float], object] = lambda _rest: None,
        error: RequestError | None = None,
    ) -> None:
        """Queue tensors or an error for `caller`; `on_sent` is called once Triton has it, or never will, with the
        seconds until it is the caller's turn again.

        `error` is what the content says in whatever form.
        """
        self._queue.put(_Item(caller, content, final, on_sent, error))

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
                pb_utils.Logger.log_error(f"[vicuna] a response could not be sent: {exc!r}")

    def _step(self) -> None:
        """Look around when it is time to, then send the next response if one comes before it is time again."""
        if time.monotonic() >= self._watch_at:
            self._watch_at = time.monotonic() + WATCH_SECONDS
            self._watch(list(self._callers))
            self._every_watch()
        try:
            item = self._queue.get(timeout=max(0.0, self._watch_at - time.monotonic()))
        except queue.Empty:
            return
        if item is None:
            self._is_open = False
        else:
            began = time.monotonic()
            try:
                self._deliver(item)
            finally:
                item.on_sent(self._rest_seconds(began))

    def _rest_seconds(self, began: float) -> float:
        """Give out the next turn: they follow each other, so n callers wait n times as long as one."""
        now = time.monotonic()
        self._next_turn = min(max(self._next_turn, now) + REST * (now - began), now + MAX_REST_SECONDS)
        return self._next_turn - now

    def _deliver(self, item: "_Item") -> None:
        caller = item.caller
        if caller not in self._callers:
            return  # it had its final response
        if item.final:
            self._callers.discard(caller)
            caller.on_end(item.error)
        caller.sender.send(_response(item.content), flags=_FINAL if item.final else 0)
        if not item.final:
            self._watch([caller])

    def _watch(self, callers: Iterable[Caller]) -> None:
        for caller in callers:
            # Behind a relay it is the relay that is told.
            if caller in self._callers and not caller.has_relay and caller.sender.is_cancelled():
                caller.on_gone()


def _response(content: Content) -> Any:
    if isinstance(content, RequestError):
        return pb_utils.InferenceResponse(error=_triton_error(content))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in content.items()])


def _triton_error(error: RequestError) -> Any:
    """Translate to Triton's error, whose code callers see where a request is not streamed."""
    codes = {
        InvalidArgument: pb_utils.TritonError.INVALID_ARG,
        Unavailable: pb_utils.TritonError.UNAVAILABLE,
        Cancelled: pb_utils.TritonError.CANCELLED,
    }
    return pb_utils.TritonError(str(error), codes.get(type(error), pb_utils.TritonError.INTERNAL))


def _string(text: str) -> np.ndarray:
    return np.array([text.encode()], np.object_)
