"""What is asked: sessions of questions about clips, none of which was seen before in the same server."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count
from pathlib import Path

import numpy as np
from video_llava_client import Clip

_CLIP = Path(__file__).parents[1] / "media" / "bikes.mp4"
_SIZE = 224
QUESTIONS_PER_VIDEO = 8
_SUBJECTS = ("the rider", "the road", "the camera", "the bicycle", "the light", "the crowd", "the weather", "the end")


@dataclass(frozen=True)
class Question:
    """A question, and the number of the clip it is about; None: about nothing but text."""

    text: str
    clip: int | None


Session = tuple[Question, ...]
"""Asked one after the other, as by one user."""


@dataclass(frozen=True)
class Workload:
    """Sessions, of which `concurrency` are under way at a time."""

    name: str
    concurrency: int
    sessions: tuple[Session, ...]
    num_tokens: int
    """of every answer: no more, no less"""

    @property
    def num_questions(self) -> int:
        """Of all sessions."""
        return sum(map(len, self.sessions))


@dataclass(frozen=True)
class Size:
    """One entry of a plan: how many sessions of a kind, how many at a time."""

    kind: str
    """`unique`, `eight` or `text`"""
    concurrency: int
    num_sessions: int


class Workbook:
    """Makes workloads, each with clips of its own."""

    def __init__(self, num_tokens: int) -> None:
        self._num_tokens = num_tokens
        self._clips = count()

    def make(self, size: Size) -> Workload:
        """The sessions of `size`."""
        sessions = tuple(tuple(self._session(size.kind, number)) for number in range(size.num_sessions))
        return Workload(size.kind, size.concurrency, sessions, self._num_tokens)

    def _session(self, kind: str, number: int) -> Iterator[Question]:
        if kind == "text":
            yield Question(f"Number {number}: what is said of {_subject(number)}, and why does it matter?", None)
            return
        clip = next(self._clips)
        for turn in range(QUESTIONS_PER_VIDEO if kind == "eight" else 1):
            yield Question(f"What happens to {_subject(turn)} in this video, and why?", clip)


def _subject(number: int) -> str:
    return _SUBJECTS[number % len(_SUBJECTS)]


@lru_cache(maxsize=128)
def frames_of(clip: int) -> np.ndarray:
    """uint8 [8, 224, 224, 3]: frames of a real video, shifted by another number of pixels for each clip."""
    return np.ascontiguousarray(np.roll(_real_frames(), divmod(clip, _SIZE), axis=(1, 2)))


@cache
def _real_frames() -> np.ndarray:
    # The kit for a machine with a GPU carries them: nothing can be decoded there.
    decoded = _CLIP.with_suffix(".npy")
    return np.load(decoded) if decoded.exists() else Clip.load(_CLIP, size=_SIZE).frames
