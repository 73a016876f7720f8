"""Which prompts a step of the engine may read, with a scheduler that only says what it was let have."""

from types import SimpleNamespace
from typing import Any

import pytest
from video_llava_server.engine_priority import with_priority


def request(priority, num_positions, *, num_read=0):
    return SimpleNamespace(
        priority=priority,
        num_prompt_tokens=num_positions,
        num_tokens=max(num_positions, num_read),
        num_computed_tokens=num_read,
    )


class Base:
    """Says which running requests, how many positions and how many requests it may schedule."""

    max_num_scheduled_tokens, max_num_active_reqs = 1024, 8

    def __init__(self, running, waiting):
        self.running = running
        self.waiting: Any = SimpleNamespace(peek_request=lambda: waiting[0]) if waiting else None

    def schedule(self):
        return list(self.running), self.max_num_scheduled_tokens, self.max_num_active_reqs


def step(scheduler):
    before = list(scheduler.running)
    found = scheduler.schedule()
    assert (scheduler.max_num_scheduled_tokens, scheduler.max_num_active_reqs) == (1024, 8)
    assert sorted(map(id, scheduler.running)) == sorted(map(id, before))
    return found


@pytest.fixture
def make():
    base: Any = Base
    made: Any = with_priority(base)
    return lambda running, waiting=(): made(running, list(waiting))


def test_a_prompt_that_is_read_waits_for_one_that_comes_first(make):
    later, answering = request(1, 2056, num_read=1024), request(1, 2056, num_read=2060)
    assert step(make([later, answering], [request(0, 100)])) == ([answering], 101, 7)


def test_a_step_is_not_filled_up_with_prompts_of_others(make):
    first = request(0, 2056, num_read=2048)
    assert step(make([first], [request(1, 2056)])) == ([first], 8, 8)
    assert step(make([request(0, 5000)], [request(1, 2056)]))[1] == 1024


def test_nothing_changes_among_equals_and_for_answers(make):
    for running, waiting in (
        ([], []),
        ([request(1, 9)], [request(1, 9)]),
        ([request(1, 9, num_read=9)], [request(0, 9)]),
    ):
        assert step(make(running, waiting)) == (running, 1024, 8)


def test_one_that_finds_no_room_does_not_hold_up_those_who_have_it(make):
    later = request(1, 2056, num_read=1024)
    scheduler = make([later], [request(0, 100)])
    assert [step(scheduler)[0] for _ in range(3)] == [[], [later], [later]]
