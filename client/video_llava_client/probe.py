"""A real question with a real answer of one token: what a readiness check cannot fake."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .answers import Answer
from .media import Clip, ClipInfo
from .request import AskOptions
from .sampling import NUM_FRAMES

QUESTION = "Are you there?"


@dataclass(frozen=True)
class Probe:
    """What `VideoLlava.probe` gives: the server generated one token.

    Attributes:
        seconds: From the call to the token.
        text: The token's text, which may be empty.
        num_input_tokens: Positions of the prompt.
        num_attempts: How often it was asked.
    """

    seconds: float
    text: str
    num_input_tokens: int
    num_attempts: int


def probe_options(*, media: bool, frame_size: int) -> AskOptions:
    """Return the options of the question; with `media`, frames of noise that no cache has seen."""
    if not media:
        return AskOptions(max_tokens=1)
    noise = np.random.default_rng().integers(0, 256, (NUM_FRAMES, frame_size, frame_size, 3), np.uint8)
    info = ClipInfo("noise", tuple(range(NUM_FRAMES)), (None,) * NUM_FRAMES)
    return AskOptions(max_tokens=1, video=Clip(noise, info))


def probed(answer: Answer) -> Probe:
    """Return what the answer shows."""
    return Probe(
        seconds=answer.stage_seconds.total,
        text=answer.text,
        num_input_tokens=answer.num_input_tokens,
        num_attempts=answer.num_attempts,
    )
