"""One caller's requests: sent by the asyncio client, timed as they are answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from video_llava_client import AsyncAnswerStream, AsyncChat, AsyncVideoLlava, VideoLlavaError

from .media import Pixels
from .plan import Plan, Turn

ANSWERED, CANCELLED, FAILED, UNFINISHED = "answered", "cancelled", "failed", "unfinished"
OUTCOMES = (ANSWERED, CANCELLED, FAILED, UNFINISHED)
"""The answer came whole; the caller left as planned; an error; cancelled by this tool, at the end of its patience."""

STAGES = ("transfer", "encode", "queue", "prefill", "generation")
"""Of `StageSeconds`, those between sending and the end of the answer."""


@dataclass
class Record:
    """One request. Times are in seconds from the beginning of the run.

    Attributes:
        caller: The number of its plan.
        kind: One of `scenario.KINDS`.
        turn: From 1, in a conversation.
        due: When it was to be sent: its arrival, or the end of the caller's thinking.
        sent: When it was; None: it never was.
        token_times: When each delta that held tokens came.
        num_output_tokens: How many came, all deltas together.
        num_input_tokens: Positions of the prompt, frames included.
        num_cached_tokens: How many of those the engine had in its prefix cache.
        ended: When it was answered, left, or failed.
        outcome: One of `OUTCOMES`.
        reason: Of a failure: the name of the client's error.
        message: And its text.
        stage_seconds: Of an answer: where its time went, by `STAGES`.
    """

    caller: int
    kind: str
    turn: int
    due: float
    sent: float | None = None
    token_times: list[float] = field(default_factory=list, repr=False)
    num_output_tokens: int = 0
    num_input_tokens: int = 0
    num_cached_tokens: int = 0
    ended: float = 0.0
    outcome: str = UNFINISHED
    reason: str = ""
    message: str = ""
    stage_seconds: dict[str, float] = field(default_factory=dict, repr=False)

    @property
    def first_token_seconds(self) -> float | None:
        """From sending to the first token (TTFT)."""
        return self.token_times[0] - self.sent if self.token_times and self.sent is not None else None

    @property
    def inter_token_seconds(self) -> float | None:
        """Mean time between tokens: (latency - TTFT) / (tokens - 1), as AIPerf has it; None for a single token."""
        if self.num_output_tokens < 2 or self.latency_seconds is None or self.first_token_seconds is None:
            return None
        return (self.latency_seconds - self.first_token_seconds) / (self.num_output_tokens - 1)

    @property
    def latency_seconds(self) -> float | None:
        """From sending to the last token."""
        return self.token_times[-1] - self.sent if self.token_times and self.sent is not None else None

    @property
    def lag_seconds(self) -> float | None:
        """From when it was to be sent to when it was: this tool's own lateness, pixels and message included."""
        return None if self.sent is None else self.sent - self.due


class Caller:
    """Does what plans say, with one client for all of them.

    Attributes:
        is_ending: Whether conversations are to break off instead of going on.

    Args:
        client: On the running event loop.
        pixels: What is asked about.
        ignore_eos: Whether answers go on to their `max_tokens`.
        on_record: Called with each request as it ends.
    """

    def __init__(
        self, client: AsyncVideoLlava, pixels: Pixels, *, ignore_eos: bool, on_record: Callable[[Record], None]
    ) -> None:
        self._client = client
        self._pixels = pixels
        self._sampling = {"ignore_eos": True} if ignore_eos else {}
        self._on_record = on_record
        self.is_ending = False
        self._zero = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since the beginning of the run."""
        return time.perf_counter() - self._zero

    def begin(self) -> None:
        """Count from now on."""
        self._zero = time.perf_counter()

    async def prime(self, client: AsyncVideoLlava) -> None:
        """Ask about each warm video once, so that it is warm."""
        for clip in self._pixels.warm:
            await client.ask("What happens?", video=clip, max_tokens=1)

    async def run(self, plan: Plan, due: float) -> None:
        """Send what `plan` says, due at this time of the run. A conversation ends with its first failure."""
        chat: AsyncChat | None = None
        for number, turn in enumerate(plan.turns, start=1):
            if number > 1:
                due = self.now + plan.think_seconds
                await asyncio.sleep(plan.think_seconds)
                if self.is_ending:
                    return
            record = Record(plan.number, plan.kind, number, due)
            try:
                chat = chat or await self._client.chat(**self._media(plan))
                await self._ask(record, chat, turn)
            except VideoLlavaError as exc:
                record.outcome, record.reason, record.message = FAILED, type(exc).__name__, str(exc)
            finally:
                record.ended = self.now
                self._on_record(record)
            if record.outcome != ANSWERED:
                return

    def _media(self, plan: Plan) -> dict[str, Any]:
        """Return the arguments of `AsyncVideoLlava.chat`; what is no conversation is one of a single turn."""
        if plan.kind == "video_warm":
            return {"video": self._pixels.warm_clip(plan.number)}
        if plan.kind == "image":
            return {"images": self._pixels.cold_image()}
        return {} if plan.kind == "text" else {"video": self._pixels.cold_clip()}

    async def _ask(self, record: Record, chat: AsyncChat, turn: Turn) -> None:
        async with chat.stream(turn.question, max_tokens=turn.max_tokens, sampling=self._sampling) as stream:
            record.sent = self.now
            record.outcome = await self._read(record, stream, turn.cancel_after_tokens)
        if record.outcome == ANSWERED:
            stages = stream.answer.stage_seconds
            record.stage_seconds = {stage: getattr(stages, stage) for stage in STAGES}

    async def _read(self, record: Record, stream: AsyncAnswerStream, cancel_after_tokens: int | None) -> str:
        async for delta in stream:
            record.num_input_tokens, record.num_cached_tokens = delta.num_input_tokens, delta.num_cached_tokens
            if delta.num_output_tokens:
                record.token_times.append(self.now)
                record.num_output_tokens += delta.num_output_tokens
            if cancel_after_tokens is not None and record.num_output_tokens >= cancel_after_tokens:
                return ANSWERED if stream.is_complete else CANCELLED
        return ANSWERED
