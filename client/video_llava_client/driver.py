"""What runs the steps of one request: one class for threads, one for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import grpc

from .deadline import Deadline
from .errors import StateError
from .metadata import read_token, read_token_async
from .settings import Token
from .steps import ReadHeaders, ReadToken, Receive, Result, Sleep, Step, Steps, Work

T = TypeVar("T")

_EOF = grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue] (its stubs lack it)

# Of a call that was cancelled, or whose last message has arrived: it waits for no model.
_END_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Finished(Generic[T]):
    """The end of the steps, with their result."""

    value: T


class Driver(Generic[T]):
    """Runs the steps of one request.

    Args:
        steps: The request.
        deadline: Its time; over when the request is cancelled.
        token: The client's, or the request's own.

    Attributes:
        call: The last call of gRPC; None before the first.
    """

    def __init__(self, steps: Steps[T], deadline: Deadline, token: Token | None) -> None:
        self.deadline = deadline
        self.call: Any = None
        self._steps = steps
        self._token = token
        self._is_running = False

    def cancel(self) -> None:
        """Give the request up; what is waited for raises `Cancelled`."""
        self.deadline.cancel()
        if self.call is not None:
            self.call.cancel()

    @staticmethod
    def _resume(continue_: Callable[[Any], Any], value: Any) -> Any:
        """Return what the steps yield next, or `Finished`."""
        try:
            return continue_(value)
        except StopIteration as end:
            return Finished(end.value)

    def _use(self, call: Any) -> Any:
        self.call = call
        # Another thread may have cancelled before the call was known.
        if self.deadline.is_cancelled:
            call.cancel()
        return call

    @contextmanager
    def _only_reader(self) -> Iterator[None]:
        if self._is_running:
            raise StateError("another thread or task reads this stream: one at a time can")
        self._is_running = True
        try:
            yield
        finally:
            self._is_running = False


class BlockingDriver(Driver[T]):
    """Runs the steps in the thread that calls; any thread may cancel."""

    def run(self) -> T:
        """Run all steps; return their result."""
        finished = self.advance()
        assert isinstance(finished, Finished)
        return finished.value

    def advance(self) -> Any:
        """Run the steps until something is for the reader; return it, or `Finished`."""
        with self._only_reader():
            step = self._resume(next, self._steps)
            while isinstance(step, Step):
                try:
                    with _interrupts_as_such():
                        result = self._perform(step)
                except BaseException as exc:  # noqa: BLE001 (the generator gets it)
                    step = self._resume(self._steps.throw, exc)
                else:
                    step = self._resume(self._steps.send, result)
            return step

    def end(self, *, is_complete: bool) -> None:
        """Wait until the call has ended; cancel it first unless the answer `is_complete`."""
        ended = threading.Event()
        if not is_complete:
            self.cancel()
        # gRPC's thread takes a lock of the call when it ends. If Python stops that thread meanwhile, because the
        # program ends, the call's destructor waits for the lock for ever.
        if self.call is not None and self.call.add_callback(ended.set) and not ended.wait(_END_SECONDS):
            self.call.cancel()

    def _perform(self, step: Step) -> Any:
        self.deadline.check()
        match step:
            case ReadToken():
                return read_token(self._token)
            case Work():
                return step.function()
            case Sleep():
                return self.deadline.sleep(step.seconds)
            case Receive():
                return self._next_of(self._use(step.call), step.timeout_seconds)
            case Result():
                return self._result_of(self._use(step.call))
            case ReadHeaders():
                return step.call.initial_metadata()

    def _next_of(self, call: Any, timeout_seconds: float | None) -> Any:
        if timeout_seconds is None:
            return next(call, None)
        timer = threading.Timer(timeout_seconds, call.cancel)
        timer.start()
        try:
            return next(call, None)
        except grpc.RpcError:
            if timer.is_alive() or self.deadline.is_cancelled:
                raise
            raise TimeoutError from None
        finally:
            timer.cancel()

    def _result_of(self, call: Any) -> Any:
        try:
            return call.result()
        except grpc.FutureCancelledError:
            self.deadline.cancel()
            raise self.deadline.error() from None


@contextmanager
def _interrupts_as_such() -> Iterator[None]:
    """Raise KeyboardInterrupt where one inside gRPC's wait for a lock has become the error of the lock's release."""
    try:
        yield
    except RuntimeError as exc:
        if isinstance(exc.__context__, KeyboardInterrupt):
            raise exc.__context__ from None
        raise


class AsyncDriver(Driver[T]):
    """Runs the steps in an event loop.

    Args:
        steps: The request.
        deadline: Its time.
        token: The client's, or the request's own.
        in_thread: Runs CPU work elsewhere; its second argument is `Work.may_wait`.
    """

    def __init__(
        self,
        steps: Steps[T],
        deadline: Deadline,
        token: Token | None,
        in_thread: Callable[[Callable[[], Any], bool], Coroutine[Any, Any, Any]],
    ) -> None:
        super().__init__(steps, deadline, token)
        self._in_thread = in_thread
        self._task: asyncio.Task[Any] | None = None

    def cancel(self) -> None:
        """Give the request up, as `Driver.cancel`; only in the event loop's thread."""
        super().cancel()
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> T:
        """Run all steps; return their result."""
        finished = await self.advance()
        assert isinstance(finished, Finished)
        return finished.value

    async def advance(self) -> Any:
        """Run the steps until something is for the reader; return it, or `Finished`."""
        with self._only_reader():
            step = self._resume(next, self._steps)
            while isinstance(step, Step):
                try:
                    result = await self._perform_or_cancel(step)
                except BaseException as exc:  # noqa: BLE001 (the generator gets it)
                    step = self._resume(self._steps.throw, exc)
                else:
                    step = self._resume(self._steps.send, result)
            return step

    async def end(self, *, is_complete: bool) -> None:
        """As `BlockingDriver.end`, but what was cancelled is not waited for."""
        if not is_complete:
            self.cancel()
        elif self.call is not None and not self.call.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.call.code(), _END_SECONDS)
            self.call.cancel()

    async def _perform_or_cancel(self, step: Step) -> Any:
        try:
            return await self._perform(step)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            is_from_outside = task is not None and task.cancelling()
            if not is_from_outside:  # `cancel`, or the end of gRPC's channel
                self.deadline.cancel()
                raise self.deadline.error() from None
            self.cancel()
            raise

    async def _perform(self, step: Step) -> Any:
        self.deadline.check()
        match step:
            case ReadToken():
                return await self._until_deadline(read_token_async(self._token))
            case Work():
                return await self._until_deadline(self._in_thread(step.function, step.may_wait))
            case Sleep():
                return await self._until_deadline(asyncio.sleep(step.seconds))
            case Receive():
                read = self._use(step.call).read()
                message = await (read if step.timeout_seconds is None else asyncio.wait_for(read, step.timeout_seconds))
                return None if message is _EOF else message
            case Result():
                return await self._use(step.call)
            case ReadHeaders():
                return await step.call.initial_metadata()

    async def _until_deadline(self, work: Coroutine[Any, Any, Any]) -> Any:
        self._task = task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait([task], timeout=self.deadline.remaining_seconds)
            if not done:
                raise self.deadline.error()
            return task.result()
        finally:
            task.cancel()
