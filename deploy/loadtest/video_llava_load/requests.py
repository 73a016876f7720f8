"""One caller's requests: sent by the asyncio client, timed as the answers arrive."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from video_llava_client import AsyncAnswerStream, AsyncChat, AsyncVideoLlava, VideoLlavaError

from .media import Pixels
from .plan import Plan, Turn

OUTCOMES = ("answered", "cancelled", "failed", "unfinished")
"""Answered in full; cancelled by its caller as planned; an error; cancelled by this tool at the end of the run."""
ANSWERED, CANCELLED, FAILED, UNFINISHED = OUTCOMES

STAGES = ("transfer", "encode", "queue", "prefill", "generation")
"""The parts of the client's `StageSeconds` between sending and the end of the answer."""


@dataclass
class Record:
    """One request. Times are seconds since the beginning of the run."""

    caller: int  # the number of its plan
    kind: str  # one of scenario.KINDS
    turn: int  # from 1, in a conversation
    due: float  # when it should have been sent: the arrival, or the end of the caller's thinking
    sent: float | None = None
    token_times: list[float] = field(default_factory=list, repr=False)  # of each delta with tokens
    num_output_tokens: int = 0
    num_input_tokens: int = 0  # positions of the prompt, frames included
    num_cached_tokens: int = 0  # of those, found in the prefix cache
    ended: float = 0.0  # answered, cancelled, or failed
    outcome: str = UNFINISHED  # one of OUTCOMES
    reason: str = ""  # of a failure: the name of the client's error
    message: str = ""  # and its text
    stage_seconds: dict[str, float] = field(default_factory=dict, repr=False)  # of an answer, by STAGES

    @property
    def first_token_seconds(self) -> float | None:
        """From sending to the first token (TTFT)."""
        return None if self.sent is None or not self.token_times else self.token_times[0] - self.sent

    @property
    def latency_seconds(self) -> float | None:
        """From sending to the last token."""
        return None if self.sent is None or not self.token_times else self.token_times[-1] - self.sent

    @property
    def inter_token_seconds(self) -> float | None:
        """(latency - TTFT) / (tokens - 1), as AIPerf has it; None for a single token."""
        if self.num_output_tokens < 2 or not self.token_times:
            return None
        return (self.token_times[-1] - self.token_times[0]) / (self.num_output_tokens - 1)

    @property
    def lag_seconds(self) -> float | None:
        """From due to sent: this tool's own delay."""
        return None if self.sent is None else self.sent - self.due


class Caller:
    """Does what plans say, with one client for all of them, on the running event loop.

    Attributes:
        records: The requests that ended, in that order.
        is_ending: Whether conversations stop after the current turn.
    """

    def __init__(self, client: AsyncVideoLlava, pixels: Pixels, *, ignore_eos: bool) -> None:
        self.records: list[Record] = []
        self.is_ending = False
        self._client = client
        self._pixels = pixels
        self._sampling = {"ignore_eos": True} if ignore_eos else {}
        self._zero = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since the beginning of the run."""
        return time.perf_counter() - self._zero

    def begin(self) -> None:
        """Begin the run's time."""
        self._zero = time.perf_counter()

    async def run(self, plan: Plan, due: float) -> None:
        """Send the requests of `plan`, due at this time of the run. A conversation ends with its first failure."""
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
                await self._ask(record, chat, turn, plan.lora_name)
            except VideoLlavaError as exc:
                record.outcome, record.reason, record.message = FAILED, type(exc).__name__, str(exc)
            finally:
                record.ended = self.now
                self.records.append(record)
            if record.outcome != ANSWERED:
                return

    def _media(self, plan: Plan) -> dict[str, Any]:
        """Return the arguments of `AsyncVideoLlava.chat`; a single question is a conversation of one turn."""
        if plan.kind == "video_warm":
            return {"video": self._pixels.warm_clip(plan.number)}
        if plan.kind == "image":
            return {"images": self._pixels.cold_image()}
        return {} if plan.kind == "text" else {"video": self._pixels.cold_clip()}

    async def _ask(self, record: Record, chat: AsyncChat, turn: Turn, lora_name: str | None) -> None:
        async with chat.stream(
            turn.question, max_tokens=turn.max_tokens, sampling=self._sampling, lora_name=lora_name
        ) as stream:
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
