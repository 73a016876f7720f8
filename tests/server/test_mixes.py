"""In any mix of requests, greedy answers are the reference's, token for token."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from support.callers import ENDLESS
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
    """One request of a mix. Without `sampling` it is greedy.

    One with `leave_after`, a number of tokens, has slow steps and no end of its own: it is left early however late its
    tokens are read.
    """

    question: str
    video: str = ""
    image: int | None = None
    max_tokens: int = MAX_TOKENS
    wait_seconds: float = 0.0
    leave_after: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """Of `VideoLlava.stream`."""
        if self.leave_after is not None:
            return {"max_tokens": 400, "sampling": ENDLESS}
        return {"max_tokens": self.max_tokens, "sampling": self.sampling}

    @property
    def prompt(self) -> str:
        placeholders = ("<image>\n" if self.image is not None else "") + ("<video>\n" if self.video else "")
        return f"USER: {placeholders}{self.question} ASSISTANT:"


def draw_mix(seed: int, *, size: int = 12) -> list[Ask]:
    random = np.random.default_rng(seed)
    # One with slow steps holds the others up, so that they meet; it is left early.
    slow = Ask(question="What?", leave_after=MAX_TOKENS)
    return [slow, *(draw_ask(random, f"fresh {seed}-{number}") for number in range(size))]


def draw_ask(random: np.random.Generator, fresh: str) -> Ask:
    kind = random.integers(4)
    return Ask(
        question=str(random.choice(QUESTIONS)),
        video=("", str(random.choice(REPEATED)), fresh, "")[kind],
        image=int(random.integers(8)) if kind == 3 or random.integers(5) == 0 else None,
        max_tokens=int(random.integers(1, MAX_TOKENS + 1)),
        wait_seconds=float(random.random()),
        **draw_ending(random),
    )


def draw_ending(random: np.random.Generator) -> dict[str, Any]:
    kind = random.integers(4)
    if kind == 0:
        return {"leave_after": int(random.integers(1, 8))}
    return {"sampling": NEIGHBOURS[random.integers(len(NEIGHBOURS))]} if kind == 1 else {}


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
            **request.options,
        ) as stream:
            for delta in stream:
                tokens += delta.token_ids
                if request.leave_after is not None and len(tokens) >= request.leave_after:
                    return tokens, None
        return tokens, stream.answer.finish_reason

    return run


@pytest.mark.parametrize("seed", [1, 2])
def test_greedy_answers_of_a_mix_are_the_references(server, ask, expected, seed):
    for name in REPEATED:
        ask(Ask(question="What happens?", video=name, max_tokens=1))
    mix = draw_mix(seed)
    # The reference takes the same cores: not at the same time.
    greedy = {number: expected(request) for number, request in enumerate(mix) if not request.sampling}
    hits = "nv_cache_num_hits_per_model{video_features}"
    before = metrics(server.metrics_url)[hits]

    with ThreadPoolExecutor(len(mix)) as pool:
        answers = list(pool.map(ask, mix))

    for number, (want, want_reason) in greedy.items():
        tokens, finish_reason = answers[number]
        if mix[number].leave_after is None:
            assert (tokens, finish_reason) == (want, want_reason), mix[number]
        else:
            num_common = min(len(tokens), len(want))
            assert (tokens[:num_common], finish_reason) == (want[:num_common], None), mix[number]
    # It was a mix: of whole answers, of left ones, of sampled ones, and of repeated videos.
    left = {number for number, request in enumerate(mix) if request.leave_after is not None}
    assert min(len(left), len(greedy.keys() - left), len(mix) - len(greedy)) >= 2
    assert metrics(server.metrics_url)[hits] > before


def test_the_same_requests_one_by_one_get_the_same(ask, expected):
    alone = [request for request in draw_mix(1) if not request.sampling and request.leave_after is None][:4]
    assert len(alone) == 4
    for request in alone:
        assert ask(request) == expected(request)
