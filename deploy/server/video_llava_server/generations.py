"""The running generations: each ends in exactly one final response, an answer or an error."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, Self

import numpy as np
from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import FinishReason

from .engine import Engine
from .errors import Cancelled, DeadlineExceeded, Internal, InvalidArgument, RequestError, Unavailable
from .prompt import Prompt
from .replies import ServerLoad, reply_tensors
from .request import GenerateRequest

_MAX_ID_CHARACTERS = 128
# May forbid each token that a constraint allows. (Its end counts for min_tokens, and a bias forbids nothing.)
_BANS = ("allowed_token_ids", "bad_words")


class Replies(Protocol):
    """Where responses to one request go, in order; after the last nothing more may follow."""

    def put(self, output: RequestOutput, make_tensors: Callable[[RequestOutput], Mapping[str, np.ndarray]]) -> None:
        """Queue what came since the last call. A finished output is the last response."""
        ...

    def fail(self, error: RequestError) -> None:
        """Queue the error as the last response."""
        ...


class Deadline(NamedTuple):
    """When a request's own timeout passes."""

    timeout_seconds: float
    """0: never"""
    ends_at: float | None
    """of the monotonic clock"""

    @classmethod
    def of(cls, timeout_seconds: float, *, since: float | None) -> Self:
        """Count from `since` (monotonic), when the server got the request; None: now."""
        since = time.monotonic() if since is None else since
        return cls(timeout_seconds, since + timeout_seconds if timeout_seconds else None)

    def check(self) -> None:
        """Raise DeadlineExceeded once it has passed."""
        if self.ends_at is not None and time.monotonic() >= self.ends_at:
            raise self.error

    @property
    def error(self) -> DeadlineExceeded:
        """What the client is told."""
        return DeadlineExceeded(f"the request's timeout of {self.timeout_seconds} s passed")


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One request on its way through the engine."""

    id: str
    """unique in this process"""
    request: GenerateRequest
    prompt: Prompt
    sampling: SamplingParams
    deadline: Deadline
    replies: Replies
    trace_headers: Mapping[str, str] = field(default_factory=dict)
    """of W3C Trace Context; empty without a trace"""


class Generations:
    """Starts and stops generations. The methods without underscore may be called from any thread; all state
    belongs to the engine's event loop."""

    def __init__(self, engine: Engine, server_load: Callable[[], ServerLoad]) -> None:
        self._engine = engine
        self._server_load = server_load
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._why_stopped: RequestError = Cancelled("the request was cancelled")

    def new_id(self, request_id: str) -> str:
        """Make an id for the engine: request ids come from clients and may repeat, be empty or long.

        Who knows a generation's id can stop it, so nobody can guess one.
        """
        return f"{request_id[:_MAX_ID_CHARACTERS] or 'request'}-{secrets.token_hex(16)}"

    def start(self, generation: Generation) -> None:
        """Let the engine generate; the responses go to `generation.replies`."""
        self._engine.call_soon(self._start, generation)

    def stop(self, generation_id: str) -> None:
        """Abort a generation; an id that has ended, or is unknown, is no error."""
        self._engine.call_soon(self._stop, generation_id)

    def stop_all(self, error: RequestError) -> None:
        """End every generation under way with `error`."""
        self._engine.call_soon(self._stop_all, error)

    def _start(self, generation: Generation) -> None:
        task = asyncio.get_running_loop().create_task(self._generate(generation), name=generation.id)
        self._tasks[generation.id] = task
        # A callback, since a task cancelled before its first step never runs a `finally` of its own.
        task.add_done_callback(partial(self._end, generation))

    def _stop(self, generation_id: str) -> None:
        if generation_id in self._tasks:
            self._tasks[generation_id].cancel()

    def _stop_all(self, error: RequestError) -> None:
        self._why_stopped = error
        for task in self._tasks.values():
            task.cancel()

    async def _generate(self, generation: Generation) -> None:
        request = generation.request
        now = time.monotonic()
        reply = partial(
            reply_tensors,
            request,
            num_input_tokens=len(generation.prompt.token_ids),
            num_sequences=generation.sampling.n,
            encode_seconds=None if request.received_seconds is None else now - request.received_seconds,
            server_load=self._server_load,
        )
        async with asyncio.timeout_at(generation.deadline.ends_at):
            async for output in self._engine.generate(
                generation.prompt,
                generation.sampling,
                generation.id,
                generation.trace_headers,
                request.lora_name,
                request.priority,
            ):
                _check_reasons(output, generation.sampling)
                generation.replies.put(output, reply)

    def _end(self, generation: Generation, task: asyncio.Task[None]) -> None:
        del self._tasks[generation.id]
        error = self._why_stopped if task.cancelled() else _why_failed(generation, task)
        if error is not None:
            generation.replies.fail(error)


def _check_reasons(output: RequestOutput, sampling: SamplingParams) -> None:
    """Raise what the caller is told if the engine gave a sequence up."""
    reasons = {completion.finish_reason for completion in output.outputs}
    if str(FinishReason.ERROR) in reasons:
        raise _engine_error(sampling)
    if str(FinishReason.ABORT) in reasons:
        raise Unavailable("the engine stopped before the answer was complete: ask another server", reason="engine_dead")


def _engine_error(sampling: SamplingParams) -> RequestError:
    """Say why the engine ended a sequence with an error; only its log has the reason itself."""
    if sampling.structured_outputs is None:
        return Internal("the engine ended the answer with an error, see the server's log: try again")
    if bans := [name for name in _BANS if getattr(sampling, name)]:
        return InvalidArgument(
            f"sampling_parameters: structured_outputs and {', '.join(bans)} together left no token allowed: "
            "leave out one of them"
        )
    return Internal(
        "the engine ended the answer with an error: no token was left that structured_outputs allows, or its grammar "
        "failed, see the server's log: change the constraint"
    )


def _why_failed(generation: Generation, task: asyncio.Task[None]) -> RequestError | None:
    exc = task.exception()
    if exc is None or isinstance(exc, RequestError):
        return exc
    if isinstance(exc, TimeoutError):
        return generation.deadline.error
    return Internal(f"{type(exc).__name__}: {exc}")
