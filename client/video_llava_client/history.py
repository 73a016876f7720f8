"""What a conversation has come to, without its waiting: shared by `Chat` and `AsyncChat`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from .answers import Answer
from .errors import ContextFull, OptionError
from .media import Clip
from .prompt import build_prompt
from .request import DEFAULT_MAX_TOKENS, AskOptions


class TurnOptions(TypedDict, total=False):
    """The keyword arguments of a turn, described at `VideoLlava.ask`."""

    max_tokens: int
    temperature: float
    timeout_seconds: float | None
    sampling: Mapping[str, Any] | None


class History:
    """The turns of one conversation and the media it is about.

    Attributes:
        turns: Each question with its answer.
        clips: The videos, decoded.
        images: The images, decoded, uint8 [height, width, 3].
        num_positions: What prompt and answer of the last turn took of the model's context; 0 before the first.
        max_positions: What the context holds; None until the server has told.
    """

    def __init__(self, clips: Sequence[Clip], images: Sequence[np.ndarray]) -> None:
        self.turns: tuple[tuple[str, str], ...] = ()
        self.clips = tuple(clips)
        self.images = tuple(images)
        self.num_positions = 0
        self.max_positions: int | None = None

    @property
    def num_positions_left(self) -> int | None:
        """How many are left for the next question and its answer; None until the server has told."""
        return None if self.max_positions is None else max(0, self.max_positions - self.num_positions)

    def ask_options(self, question: str, options: Mapping[str, Any]) -> AskOptions:
        """Return the next request: all that was said, and each medium once."""
        unknown = set(options) - set(TurnOptions.__annotations__)
        if unknown:
            raise OptionError(
                f"a turn takes {', '.join(TurnOptions.__annotations__)}, got {', '.join(sorted(unknown))}"
            )
        prompt = build_prompt(question, num_images=len(self.images), num_videos=len(self.clips), turns=self.turns)
        return AskOptions(prompt=prompt, video=self.clips, images=self.images, **options)

    def add(self, question: str, answer: Answer, options: Mapping[str, Any]) -> None:
        """Keep a complete turn."""
        self.turns = (*self.turns, (question, answer.text))
        self.num_positions = answer.num_input_tokens + answer.num_output_tokens
        longest = (options.get("sampling") or {}).get("max_tokens") or options.get("max_tokens", DEFAULT_MAX_TOKENS)
        if answer.finish_reason == "length" and answer.num_output_tokens < longest:
            # The engine stopped before the caller's own limit: at the end of the context.
            self.max_positions = self.num_positions

    def learn(self, error: ContextFull) -> None:
        """Keep what a refusal says of the context."""
        self.max_positions = error.max_positions

    def clear(self) -> None:
        """Forget what was said; the media stay."""
        self.turns = ()
        self.num_positions = 0
