"""Conversations about scenes, in the product's prompt format."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .pair_questions import PAIR_CLIP_KINDS, PAIR_PICTURE_KINDS, ask_about_pair
from .pairs import Drawn, Pair
from .questions import PICTURE_KINDS, Question, ask, clip_kinds

# How often the training asks a kind of question, where not 1.
_WEIGHTS = {
    "existence": 3.5, "motion yes/no": 2.5, "describe": 2.0, "shape": 1.5, "position": 1.5, "direction": 0.7,
    "refusal": 0.7, "number": 0.5, "which one moves": 2.0, "what it does": 2.0, "left or right": 2.0, "on a side": 2.0,
}  # fmt: skip


@dataclass(frozen=True)
class Conversation:
    """Questions and answers about some media; `media` is the text of their placeholders, such as "<video>\\n"."""

    media: str
    turns: tuple[Question, ...]

    @property
    def pieces(self) -> tuple[tuple[str, bool], ...]:
        """The text in pieces, each with whether the model learns to write it."""
        pieces: list[tuple[str, bool]] = []
        for number, turn in enumerate(self.turns):
            media = "" if number else self.media
            pieces += [(f"USER: {media}{turn.text} ASSISTANT:", False), (f" {turn.answer}</s>", True)]
        return tuple(pieces)

    @property
    def text(self) -> str:
        """All turns, as the model reads them."""
        return "".join(piece for piece, _ in self.pieces)

    def prompt(self, turn: int) -> str:
        """The text before the answer of turn `turn`, counted from 0."""
        return "".join(piece for piece, _ in self.pieces[: 2 * turn + 1])


def placeholders(clip: object, picture: object) -> str:
    """Their text for the media that are not None."""
    return "<image>\n" * (picture is not None) + "<video>\n" * (clip is not None)


def draw_conversation(
    rng: random.Random, *, clip: Drawn | None = None, picture: Drawn | None = None, num_turns: int = 1
) -> Conversation:
    """A conversation about a clip, a picture or both."""
    turns = tuple(_draw_question(rng, clip, picture) for _ in range(num_turns))
    return Conversation(placeholders(clip, picture), turns)


def _draw_question(rng: random.Random, clip: Drawn | None, picture: Drawn | None) -> Question:
    if clip is None or picture is None:
        drawn = clip or picture
        assert drawn is not None
        return _ask(rng, drawn, is_clip=clip is not None)
    is_clip = rng.random() < 0.5
    question = _ask(rng, clip if is_clip else picture, is_clip=is_clip)
    medium = "video" if is_clip else "image"
    if question.kind == "refusal" or medium in question.text:
        return question
    return Question(question.kind, f"In the {medium}: {question.text}", question.answer)


def _ask(rng: random.Random, drawn: Drawn, *, is_clip: bool) -> Question:
    if isinstance(drawn, Pair):
        kind = _draw_kind(rng, PAIR_CLIP_KINDS if is_clip else PAIR_PICTURE_KINDS)
        return ask_about_pair(rng, drawn, kind, is_clip=is_clip)
    return ask(rng, drawn, _draw_kind(rng, clip_kinds(drawn) if is_clip else PICTURE_KINDS), is_clip=is_clip)


def _draw_kind(rng: random.Random, kinds: Sequence[str]) -> str:
    return rng.choices(kinds, [_WEIGHTS.get(kind, 1.0) for kind in kinds])[0]
