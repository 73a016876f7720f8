"""A real question with an answer of one token: a health check of the whole server."""

from dataclasses import dataclass
from typing import Self

from .answers import Answer
from .request import AskOptions

QUESTION = "Are you there?"


@dataclass(frozen=True)
class Probe:
    """What `VideoLlava.probe` returns: the server generated one token.

    Attributes:
        seconds: From the call to the token.
        text: The token's text, which may be empty.
        num_input_tokens: Tokens of the prompt.
        num_attempts: How often it was sent.
    """

    seconds: float
    text: str
    num_input_tokens: int
    num_attempts: int

    @classmethod
    def from_answer(cls, answer: Answer) -> Self:
        """Return the probe that `answer` completes."""
        return cls(answer.stage_seconds.total, answer.text, answer.num_input_tokens, answer.num_attempts)


def probe_options(frame_size: int | None, num_frames: int) -> AskOptions:
    """Return the options of the question; with a frame size, a video of noise that no cache has."""
    if frame_size is None:
        return AskOptions(max_tokens=1)
    import numpy as np

    from .clip import Clip, ClipInfo

    noise = np.random.default_rng().integers(0, 256, (num_frames, frame_size, frame_size, 3), np.uint8)
    info = ClipInfo("noise", tuple(range(num_frames)), (None,) * num_frames)
    return AskOptions(max_tokens=1, video=Clip(noise, info))
