"""How many lines of a batch are asked at a time, and when."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from video_llava_client import Unavailable
from video_llava_client.batch.pace import Pace
from video_llava_client.errors import from_error_text


def full(seconds):
    return from_error_text(f"UNAVAILABLE: full: try again, reason=full, retry_after_seconds={seconds}")


def test_a_refusal_halves_what_is_asked_and_a_round_of_answers_raises_it_by_one():
    async def follow():
        pace = Pace(16, patience_seconds=60)
        async with pace.place() as asked:
            for _ in range(16):  # all were under way together: they say one thing
                pace.refused(asked, full(0.2))
        allowed = [pace.num_allowed]
        async with pace.place() as later:
            assert later - asked >= 0.2
            pace.refused(later, full(0.0))
        allowed.append(pace.num_allowed)
        for num_attempts in (2, 1, 1, 1, 1):  # the first was refused at first
            pace.answered(num_attempts=num_attempts)
        allowed.append(pace.num_allowed)
        pace.refused(time.monotonic(), from_error_text("UNAVAILABLE: gone, reason=draining"))
        async with asyncio.timeout(10), AsyncExitStack() as places:
            for _ in range(pace.num_allowed):
                await places.enter_async_context(pace.place())
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), pace.place():
                    pass
        return [*allowed, pace.num_allowed]

    assert asyncio.run(follow()) == [8, 4, 5, 5]


def test_patience_ends_when_nothing_was_answered_for_its_time():
    async def follow():
        pace = Pace(4, patience_seconds=0.3)
        for _ in range(3):
            pace.refused(time.monotonic(), full(0.1))
            await asyncio.sleep(0.15)
            pace.answered()
        pace.refused(time.monotonic(), full(99.0))
        async with asyncio.timeout(10), pace.place() as asked:  # once more at its end, not after 99 s
            with pytest.raises(Unavailable, match="try again"):
                pace.refused(asked, full(99.0))

    asyncio.run(follow())
