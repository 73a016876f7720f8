"""What callers ask, and about which pixels; and input data for perf_analyzer."""

from collections import Counter

import numpy as np
import pytest
from video_llava_client.server import ModelLimits
from video_llava_load.media import Pixels
from video_llava_load.plan import Planner
from video_llava_load.scenario import Mix, Requests

LIMITS = ModelLimits(image_size=56, num_frames=8, tokens_per_frame=17, tokens_per_image=16, max_model_len=512)
REQUESTS = Requests(question_words=(3, 7), output_tokens=(4, 9), turns=(2, 4), cancel_share=0.25)


def plans(number: int, *, seed: int = 1):
    planner = Planner(Mix(video_cold=3, text=1, chat=1), REQUESTS, seed=seed)
    return [planner.next() for _ in range(number)]


def test_the_same_seed_asks_the_same():
    assert plans(50) == plans(50)
    assert plans(50) != plans(50, seed=2)


def test_kinds_come_by_their_weights_and_values_from_their_ranges():
    drawn = plans(2000)
    kinds = Counter(plan.kind for plan in drawn)
    assert set(kinds) == {"video_cold", "text", "chat"}
    assert kinds["video_cold"] == pytest.approx(1200, rel=0.15)
    turns = [turn for plan in drawn for turn in plan.turns]
    assert {len(turn.question.split()) for turn in turns} == set(range(3, 8))
    assert {turn.max_tokens for turn in turns} == set(range(4, 10))
    assert {len(plan.turns) for plan in drawn if plan.kind == "chat"} == {2, 3, 4}
    assert {len(plan.turns) for plan in drawn if plan.kind != "chat"} == {1}
    leaving = [turn for turn in turns if turn.cancel_after_tokens is not None]
    assert len(leaving) / len(turns) == pytest.approx(0.25, abs=0.05)
    assert [plan.number for plan in drawn] == list(range(2000))


def test_pixels_are_cold_or_warm_and_of_the_servers_size():
    pixels, again = Pixels(LIMITS, num_warm=2), Pixels(LIMITS, num_warm=2)
    first, second = pixels.cold_clip(), pixels.cold_clip()
    assert first.frames.shape == (8, 56, 56, 3)
    assert pixels.cold_image().shape == (56, 56, 3)
    assert not np.array_equal(first.frames, second.frames)
    assert not np.array_equal(pixels.warm[0].frames, again.warm[0].frames)  # of another run
    assert pixels.warm_clip(5) is pixels.warm_clip(7)
    assert pixels.warm_clip(5) is not pixels.warm_clip(6)
