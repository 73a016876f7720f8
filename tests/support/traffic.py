"""What `make soak` sends: good requests, callers who leave, and misuse, mixed at random."""

import asyncio
import re
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from video_llava_client import Answer, AsyncChat, AsyncVideoLlava, Clip, ClipInfo, DeadlineExceeded

from support import triton
from support.callers import ENDLESS
from support.misuse import MISUSE
from support.refusals import REFUSALS
from support.triton import Streamed, flag, strings

FRAME_SIZE = 56  # the random checkpoint's
MAX_TOKENS = 40
QUESTIONS = ("What happens?", "Where?", "How many?", "Describe it, please.", "Wie heißt das? 自転車 🚲")
CHOICES = ("yes", "no", "two bicycles")
HANG_SECONDS = 150
MAX_FAILURES = 20


class Outcome(StrEnum):
    """What came of a request, as its caller wanted it."""

    ANSWERED = "answered"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@dataclass
class Tally:
    """What was sent, of which of KINDS, and what came of it; `failures` are the errors that were not provoked."""

    sent: int = 0
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    num_tokens: int = 0
    first_token_seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Traffic:
    """Callers of one server, on one event loop. Each public method is one request."""

    def __init__(self, client: AsyncVideoLlava, url: str, *, seed: int) -> None:
        self.tally = Tally()
        self._client = client
        self._url = url
        self._random = np.random.default_rng(seed)
        self._warm = [self._new_clip() for _ in range(4)]
        self._chats: list[AsyncChat] = []

    async def run(self, *, num_callers: int, until_seconds: float) -> None:
        """Let callers send one request after the other until that time of the monotonic clock."""
        await asyncio.gather(*(self._call(until_seconds) for _ in range(num_callers)))

    async def _call(self, until_seconds: float) -> None:
        names, weights = list(KINDS), np.array([weight for weight, _ in KINDS.values()], float)
        while time.monotonic() < until_seconds and len(self.tally.failures) < MAX_FAILURES:
            await self._send(names[self._random.choice(len(names), p=weights / weights.sum())])

    async def _send(self, name: str) -> None:
        self.tally.calls[name] += 1
        self.tally.sent += 1
        try:
            async with asyncio.timeout(HANG_SECONDS):
                self.tally.outcomes[await KINDS[name][1](self)] += 1
        except Exception as exc:  # noqa: BLE001 (counted, and told at the end)
            self.tally.failures.append(f"{name}: {exc!r}\n{traceback.format_exc(limit=-3)}")

    async def _ask(self, **options: Any) -> Outcome:
        """Ask, and want the answer."""
        return self._answered(
            await self._client.ask(**{"question": self._question(), "max_tokens": MAX_TOKENS} | options)
        )

    def _answered(self, answer: Answer) -> Outcome:
        assert answer.num_output_tokens > 0, answer
        self.tally.num_tokens += answer.num_output_tokens
        if answer.stage_seconds.first_token is not None:
            self.tally.first_token_seconds.append(answer.stage_seconds.first_token)
        return Outcome.ANSWERED

    # What is drawn

    def _question(self) -> str:
        return str(self._random.choice(QUESTIONS))

    def _seen_clip(self) -> Clip:
        return self._warm[self._random.integers(len(self._warm))]

    def _new_clip(self) -> Clip:
        frames = self._random.integers(0, 256, (8, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
        return Clip(frames, ClipInfo("drawn", tuple(range(8)), (None,) * 8))

    def _picture(self) -> np.ndarray:
        return self._random.integers(0, 256, (FRAME_SIZE, FRAME_SIZE, 3), np.uint8)

    # Good requests

    async def known_video(self) -> Outcome:
        return await self._ask(video=self._seen_clip())

    async def new_video(self) -> Outcome:
        return await self._ask(video=self._new_clip())

    async def images(self) -> Outcome:
        return await self._ask(images=[self._picture() for _ in range(self._random.integers(1, 4))])

    async def image_and_video(self) -> Outcome:
        return await self._ask(images=[self._picture()], video=self._seen_clip())

    async def text(self) -> Outcome:
        return await self._ask()

    async def sampled(self) -> Outcome:
        sampling = {"temperature": 1.1, "top_k": 40, "repetition_penalty": 1.2, "logit_bias": {"5": -3.0}}
        return await self._ask(video=self._seen_clip(), sampling=sampling)

    async def chat(self) -> Outcome:
        """Ask a first question, or one of three further ones."""
        chat = self._chats.pop() if self._chats else await self._client.chat(video=self._seen_clip())
        outcome = self._answered(await chat.ask(self._question(), max_tokens=20))
        if len(chat.turns) < 4:
            self._chats.append(chat)
        return outcome

    async def choice(self) -> Outcome:
        sampling = {"structured_outputs": {"choice": list(CHOICES)}}
        answer = await self._client.ask(self._question(), max_tokens=MAX_TOKENS, sampling=sampling)
        assert answer.text in CHOICES, answer
        return self._answered(answer)

    async def sequences(self) -> Outcome:
        streamed = await self._raw(
            text_input=strings(f"USER: {self._question()} ASSISTANT:"),
            sampling_parameters=strings('{"n": 3, "temperature": 1, "max_tokens": 16}'),
            stream=flag(True),
            return_num_output_tokens=flag(True),
        )
        assert (streamed.error, streamed.num_final) == ("", 1), streamed.error
        assert all(len(output["text_output"]) == 3 for output in streamed.outputs)
        self.tally.num_tokens += sum(int(output["num_output_tokens"].sum()) for output in streamed.outputs)
        return Outcome.ANSWERED

    # Callers who leave

    async def leave(self) -> Outcome:
        num_wanted = int(self._random.integers(1, 6))
        options = {"max_tokens": 200, "sampling": {"ignore_eos": True}}
        async with self._client.stream(self._question(), video=self._seen_clip(), **options) as stream:
            async for _ in stream:
                num_wanted -= 1
                if num_wanted == 0 and not stream.is_complete:
                    return Outcome.CANCELLED
        # Where the machine is busy, few deltas hold the whole answer.
        return self._answered(stream.answer)

    async def cancel(self) -> Outcome:
        options = {"max_tokens": 400, "sampling": {"ignore_eos": True}}
        video = self._new_clip() if self._random.integers(2) else None
        asking = asyncio.create_task(self._client.ask(self._question(), video=video, **options))
        done, _ = await asyncio.wait([asking], timeout=float(self._random.uniform(0.2, 0.6)))
        if done:
            return self._answered(asking.result())
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled(), asking
        return Outcome.CANCELLED

    async def expire(self) -> Outcome:
        seconds = float(self._random.uniform(0.3, 0.8))
        try:
            await self._client.ask(self._question(), max_tokens=900, sampling=ENDLESS, timeout_seconds=seconds)
        except DeadlineExceeded:
            return Outcome.EXPIRED
        raise AssertionError("900 slow tokens in a second")

    # Misuse

    async def refused(self) -> Outcome:
        name = str(self._random.choice(list(REFUSALS)))
        tensors, message = REFUSALS[name]
        streamed = await self._raw(**tensors)
        assert re.search(message, streamed.error), f"{name}: {streamed.error!r}"
        return Outcome.REFUSED

    async def misuse(self) -> Outcome:
        name = str(self._random.choice([name for name in MISUSE if name != "thrown away"]))
        said = await asyncio.to_thread(MISUSE[name], self._url)
        assert said, f"{name}: no error"
        return Outcome.REFUSED

    async def _raw(self, **tensors: np.ndarray) -> Streamed:
        return await asyncio.to_thread(triton.stream, self._url, "video_llava", tensors)


KINDS: dict[str, tuple[int, Callable[[Traffic], Awaitable[Outcome]]]] = {
    "known video": (12, Traffic.known_video),
    "new video": (8, Traffic.new_video),
    "images": (5, Traffic.images),
    "image and video": (4, Traffic.image_and_video),
    "text": (8, Traffic.text),
    "sampled": (5, Traffic.sampled),
    "chat": (3, Traffic.chat),
    "choice": (3, Traffic.choice),
    "sequences": (3, Traffic.sequences),
    "leave": (3, Traffic.leave),
    "cancel": (3, Traffic.cancel),
    "expire": (1, Traffic.expire),
    "refused": (6, Traffic.refused),
    "misuse": (4, Traffic.misuse),
}
"""Each kind with its relative weight; `expire` is rare since it slows everybody down.

Nobody leaves while frames are encoded: Triton 24.10, the newest without a container, sometimes crashes then (fixed in
25.04).
"""
