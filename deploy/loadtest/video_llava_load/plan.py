"""What the next caller asks, drawn by seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .scenario import KINDS, Mix, Requests

_VOCABULARY = (
    "what who where when why how many much does is are the a in of on behind before after left right first last video "
    "picture person dog car bicycle street water colour red green blue small large fast slow moves stops turns looks "
    "holds carries opens closes begins ends happens"
)
_WORDS = _VOCABULARY.split()


@dataclass(frozen=True)
class Turn:
    """One question, and the number of tokens after which the caller cancels the answer (None: never)."""

    question: str
    max_tokens: int
    cancel_after_tokens: int | None


@dataclass(frozen=True)
class Plan:
    """What one caller does."""

    number: int  # from 0, in the order of arrival
    kind: str  # one of KINDS
    turns: tuple[Turn, ...]  # several in a conversation, else one
    think_seconds: float  # before each turn but the first
    lora_name: str | None  # the adapter that answers; None: the model itself


class Planner:
    """Draws one caller after the other; the same seed draws the same."""

    def __init__(self, mix: Mix, requests: Requests, *, seed: int) -> None:
        self._mix = mix
        self._requests = requests
        self._random = random.Random(seed)
        self._num_planned = 0

    def next(self) -> Plan:
        """Return the next caller's plan."""
        (kind,) = self._random.choices(KINDS, self._mix.weights)
        num_turns = self._random.randint(*self._requests.turns) if kind == "chat" else 1
        turns = tuple(self._turn() for _ in range(num_turns))
        number, self._num_planned = self._num_planned, self._num_planned + 1
        names = self._requests.lora_names or ("",)
        return Plan(
            number,
            kind,
            turns,
            think_seconds=self._random.uniform(*self._requests.think_seconds),
            lora_name=names[number % len(names)] or None,
        )

    def _turn(self) -> Turn:
        words = self._random.choices(_WORDS, k=self._random.randint(*self._requests.question_words))
        cancels = self._random.random() < self._requests.cancel_share
        cancel_after_tokens = self._random.randint(*self._requests.cancel_after_tokens)
        return Turn(
            question=" ".join(words).capitalize() + "?",
            max_tokens=self._random.randint(*self._requests.output_tokens),
            cancel_after_tokens=cancel_after_tokens if cancels else None,
        )
