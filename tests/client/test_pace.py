"""How many lines of a batch are asked at a time, and when."""

import asyncio
import time
from contextlib import AsyncExitStack

import pytest
from video_llava_client import ServerLoad, Unavailable
from video_llava_client.batch.pace import MAX_WIDTH, Pace
from video_llava_client.errors import from_error_text


def full(seconds):
    return from_error_text(f"UNAVAILABLE: full: try again, reason=full, retry_after_seconds={seconds}")


class Server:
    """Works on `num_places` requests at a time; `num_others` of other callers are always there."""

    def __init__(self, num_places, *, num_others=0, kv_cache_bytes=10**9):
        self.num_places, self.num_others, self._kv_cache_bytes = num_places, num_others, kv_cache_bytes

    def load(self, num_asked):
        num = num_asked - 1 + self.num_others  # without the one that has ended
        running = min(num, self.num_places)
        return ServerLoad(0, num - running, running, min(1.0, running / self._kv_cache_bytes))


async def rounds(pace, load_of, number, *, num_busy=None):
    """Answer lines, as many at a time as `pace` allows, or `num_busy`; return its widths."""
    widths = []
    for _ in range(number):
        async with asyncio.timeout(10), AsyncExitStack() as places:
            width = pace.num_allowed
            times = [await places.enter_async_context(pace.place()) for _ in range(min(width, num_busy or width))]
            for asked in times:
                pace.answered(asked, load_of(len(times)))
        widths.append(pace.num_allowed)
    return widths


@pytest.mark.parametrize("num_places", [1, 6, 40])
def test_it_asks_a_third_more_than_the_server_works_on(num_places):
    pace = Pace(None, patience_seconds=60)
    widths = asyncio.run(rounds(pace, Server(num_places).load, 20))
    assert widths[0] > 2
    assert num_places < min(widths[10:])
    assert max(widths[10:]) <= 1.5 * num_places + 3


def test_it_steps_back_where_others_wait_too():
    pace, server = Pace(None, patience_seconds=60), Server(16)
    alone = asyncio.run(rounds(pace, server.load, 20))[-1]
    server.num_others = 12
    assert asyncio.run(rounds(pace, server.load, 20))[-1] < alone - 4


def test_it_leaves_a_part_of_the_kv_cache_free():
    pace = Pace(None, patience_seconds=60)
    widths = asyncio.run(rounds(pace, Server(1000, kv_cache_bytes=40).load, 20))
    assert max(widths[10:]) <= 40


def test_it_grows_only_while_it_is_the_limit_and_never_past_the_option():
    idle = Server(10**6)
    assert asyncio.run(rounds(Pace(None, 60), idle.load, 3, num_busy=1)) == [2, 2, 2]
    assert asyncio.run(rounds(Pace(None, 60), idle.load, 20))[-1] == MAX_WIDTH
    assert asyncio.run(rounds(Pace(12, 60), idle.load, 20))[-1] == 12
    assert asyncio.run(rounds(Pace(1, 60), idle.load, 3)) == [1, 1, 1]


def test_it_does_not_grow_before_an_answer_at_the_present_width():
    async def follow():
        pace = Pace(None, 60)
        async with pace.place() as early:
            assert pace.num_allowed == 2
        await rounds(pace, Server(10**6).load, 1)
        width = pace.num_allowed
        for _ in range(100):
            pace.answered(early, ServerLoad(0, 0, 1, 0.1))
        return width, pace.num_allowed

    width, later = asyncio.run(follow())
    assert later == width > 2


def test_a_server_that_does_not_say_gets_sixteen():
    assert asyncio.run(rounds(Pace(None, 60), lambda _: None, 8))[2:] == [16] * 6
    assert asyncio.run(rounds(Pace(50, 60), lambda _: None, 8))[-1] == 50


def test_a_refusal_halves_what_is_asked_and_a_round_of_answers_raises_it_by_one():
    async def follow():
        pace = Pace(16, patience_seconds=60)
        await rounds(pace, lambda _: None, 8)
        assert pace.num_allowed == 16
        async with pace.place() as asked:
            for _ in range(16):  # all were under way together: they say one thing
                pace.refused(asked, full(0.2))
        allowed = [pace.num_allowed]
        async with pace.place() as later:
            assert later - asked >= 0.2
            pace.refused(later, full(0.0))
        allowed.append(pace.num_allowed)
        await rounds(pace, lambda _: None, 1)
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


def test_answers_that_the_server_refused_at_first_raise_nothing():
    async def follow():
        pace = Pace(None, 60)
        async with pace.place() as asked, pace.place():
            pace.answered(asked, num_attempts=2)
        return pace.num_allowed

    assert asyncio.run(follow()) == 2


def test_patience_ends_when_nothing_was_answered_for_its_time():
    async def follow():
        pace = Pace(4, patience_seconds=0.3)
        for _ in range(3):
            pace.refused(time.monotonic(), full(0.1))
            await asyncio.sleep(0.15)
            pace.heard()
        pace.refused(time.monotonic(), full(99.0))
        async with asyncio.timeout(10), pace.place() as asked:  # once more at its end, not after 99 s
            with pytest.raises(Unavailable, match="try again"):
                pace.refused(asked, full(99.0))

    asyncio.run(follow())
