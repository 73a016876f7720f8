"""A request as a generator of steps, without I/O: one description for the blocking and the asyncio client."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class Step:
    """Something that a request needs from outside; its result is sent to the generator, its error is raised there."""


@dataclass(frozen=True, slots=True)
class ReadToken(Step):
    """The token for the next attempt."""


@dataclass(frozen=True, slots=True)
class Work(Step):
    """CPU work: the result of `function`, which `may_wait` for somebody else's data."""

    function: Callable[[], Any]
    may_wait: bool


@dataclass(frozen=True, slots=True)
class Sleep(Step):
    """A delay."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Result(Step):
    """The reply to a unary call of gRPC."""

    call: Any


@dataclass(frozen=True, slots=True)
class Receive(Step):
    """The next message of a call of gRPC with a stream of replies; None at its end.

    Raises TimeoutError if it does not come within `timeout_seconds`, if that is not None.
    """

    call: Any
    timeout_seconds: float | None


@dataclass(frozen=True, slots=True)
class ReadHeaders(Step):
    """The headers of the reply, gRPC's initial metadata, of a call that has sent a message."""

    call: Any


# What it yields besides steps is for the reader of the answer: the state when the request has been sent, then deltas.
Steps = Generator[Any, Any, T]
