"""Whatever else is under way: greedy answers are the reference's, token for token."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from support import slow_steps
from support.triton import metrics
from video_llava_client import Clip, ClipInfo, VideoLlava

MAX_TOKENS = 24
QUESTIONS = ("What happens?", "How many bicycles are there?", "Where?", "Describe the scene in a few words, please.")
REPEATED = ("card", "reversed", "mirrored")
# All change logits or draw numbers, in a batch with those that must not notice.
NEIGHBOURS: tuple[dict[str, Any], ...] = (
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5, "seed": 3},
    {"repetition_penalty": 0.3},
    {"logit_bias": {"500": 50.0}, "min_tokens": 8},
    {"structured_outputs": {"choice": ["a", "b c"]}},
    {"frequency_penalty": 2.0, "bad_words": ["a"], "top_p": 0.5, "temperature": 1.2},
)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request of a mix. Without `sampling` it is greedy; `leave_after` is a number of tokens."""

    question: str
    video: str = ""
    image: int | None = None
    max_tokens: int = MAX_TOKENS
    wait_seconds: float = 0.0
    leave_after: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        placeholders = ("<image>\n" if self.image is not None else "") + ("<video>\n" if self.video else "")
        return f"USER: {placeholders}{self.question} ASSISTANT:"


def draw_mix(seed: int, *, size: int = 12) -> list[Ask]:
    random = np.random.default_rng(seed)
    # One holds every step up, so that the others meet.
    slow = Ask(question="What?", sampling={"ignore_eos": True, "seed": slow_steps.SEED})
    return [slow, *(draw_ask(random, f"fresh {seed}-{number}") for number in range(size))]


def draw_ask(random: np.random.Generator, fresh: str) -> Ask:
    kind = random.integers(4)
    return Ask(
        question=str(random.choice(QUESTIONS)),
        video=("", str(random.choice(REPEATED)), fresh, "")[kind],
        image=int(random.integers(8)) if kind == 3 or random.integers(5) == 0 else None,
        max_tokens=int(random.integers(1, MAX_TOKENS + 1)),
        wait_seconds=float(random.random()),
        leave_after=int(random.integers(1, 8)) if random.integers(4) == 0 else None,
        sampling=NEIGHBOURS[random.integers(len(NEIGHBOURS))] if random.integers(4) == 0 else {},
    )


@pytest.fixture(scope="module")
def frames_of(card_frames):
    """Return `frames_of(name)`, uint8 [8, H, W, 3]: of the clip's own, turned about, or pixels not seen before."""

    @cache
    def frames(name: str) -> np.ndarray:
        turned = {"card": card_frames, "reversed": card_frames[::-1], "mirrored": card_frames[:, :, ::-1]}
        if name in turned:
            return np.ascontiguousarray(turned[name])
        shift = int(np.random.default_rng(list(name.encode())).integers(8, 200))
        return np.roll(card_frames, shift, axis=(0, 2))

    return frames


@pytest.fixture(scope="module")
def expected(reference, frames_of, card_frames):
    """Return `expected(ask)`: the reference's tokens, as many as the request may have, and why they end."""

    @cache
    def whole(prompt: str, video: str, image: int | None):
        return reference.answer(
            prompt,
            videos=[frames_of(video)] if video else [],
            images=[card_frames[image]] if image is not None else [],
            max_new_tokens=MAX_TOKENS,
        )

    def answer(ask: Ask) -> tuple[list[int], str]:
        want = whole(ask.prompt, ask.video, ask.image)
        assert want.smallest_gap > 1e-4, f"{ask}: float noise may decide"
        ends = want.finish_reason == "stop" and len(want.token_ids) <= ask.max_tokens
        return want.token_ids[: ask.max_tokens], "stop" if ends else "length"

    return answer


@pytest.fixture(scope="module")
def ask(client: VideoLlava, frames_of, card_frames):
    """Return `ask(request)`: the tokens that came, and why they ended, None for who left before."""

    def run(request: Ask) -> tuple[list[int], str | None]:
        time.sleep(request.wait_seconds)
        video = Clip(frames_of(request.video), ClipInfo(request.video, tuple(range(8)), (None,) * 8))
        tokens: list[int] = []
        with client.stream(
            prompt=request.prompt,
            video=video if request.video else None,
            images=[card_frames[request.image]] if request.image is not None else [],
            max_tokens=request.max_tokens,
            sampling=request.sampling,
        ) as stream:
            for delta in stream:
                tokens += delta.token_ids
                if request.leave_after is not None and len(tokens) >= request.leave_after and not stream.is_complete:
                    return tokens, None
        return tokens, stream.answer.finish_reason

    return run


@pytest.mark.parametrize("seed", [1, 2])
def test_greedy_answers_of_a_mix_are_the_references(server, ask, expected, seed):
    mix = draw_mix(seed)
    # The reference takes the same processors: not at the same time.
    greedy = {number: expected(request) for number, request in enumerate(mix) if not request.sampling}
    hits = "nv_cache_num_hits_per_model{video_encoder}"
    before = metrics(server.metrics_url)[hits]

    with ThreadPoolExecutor(len(mix)) as pool:
        answers = list(pool.map(ask, mix))

    for number, (tokens, finish_reason) in enumerate(answers):
        if number in greedy:
            want, want_reason = greedy[number]
            assert tokens == (want if finish_reason else want[: len(tokens)]), mix[number]
            assert finish_reason in (None, want_reason), mix[number]
    # It was a mix: of whole answers, of left ones, and of repeated videos.
    assert sum(reason is not None for number, (_, reason) in enumerate(answers) if number in greedy) >= 4
    assert any(reason is None for _, reason in answers)
    assert metrics(server.metrics_url)[hits] > before


def test_the_same_requests_one_by_one_get_the_same(ask, expected):
    for request in draw_mix(1, size=6)[1:]:
        if not request.sampling and request.leave_after is None:
            assert ask(request) == expected(request)
