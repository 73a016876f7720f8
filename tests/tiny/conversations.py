"""Conversations about a scene: what the language model reads, in the product's own prompt format."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from video_llava_export.tokens import IMAGE_TOKEN, VIDEO_TOKEN

from .pair_questions import PAIR_CLIP_KINDS, PAIR_PICTURE_KINDS, ask_about_pair
from .pairs import Drawn, Pair
from .questions import PICTURE_KINDS, Question, ask, clip_kinds

# How often a kind is asked for in the training, where not once.
_WEIGHTS = {
    "existence": 3.5,
    "motion yes/no": 2.5,
    "describe": 2.0,
    "shape": 1.5,
    "position": 1.5,
    "direction": 0.7,
    "refusal": 0.7,
    "number": 0.5,
    "which one moves": 2.0,
    "what it does": 2.0,
    "left or right": 2.0,
    "on a side": 2.0,
}
_IN_CLIP, _IN_PICTURE = " in the video", " in the image"


@dataclass(frozen=True)
class Conversation:
    """The media, and the turns about them; `media` is the placeholders' text, say "<video>\\n"."""

    media: str
    turns: tuple[Question, ...]

    @property
    def pieces(self) -> tuple[tuple[str, bool], ...]:
        """The text in parts, each with whether it is to be learned."""
        parts: list[tuple[str, bool]] = []
        for number, turn in enumerate(self.turns):
            media = "" if number else self.media
            parts += [(f"USER: {media}{turn.text} ASSISTANT:", False), (f" {turn.answer}</s>", True)]
        return tuple(parts)

    @property
    def text(self) -> str:
        """All turns, as the model reads them."""
        return "".join(part for part, _ in self.pieces)

    def prompt(self, turn: int) -> str:
        """What stands before the answer of turn `turn`, counted from 0."""
        return "".join(part for part, _ in self.pieces[: 2 * turn + 1])


def draw_conversation(
    rng: random.Random, *, clip: Drawn | None = None, picture: Drawn | None = None, num_turns: int = 1
) -> Conversation:
    """A conversation about a clip, a picture, both, or nothing, which is refused."""
    media = f"{IMAGE_TOKEN}\n" * (picture is not None) + f"{VIDEO_TOKEN}\n" * (clip is not None)
    return Conversation(media, tuple(_draw_question(rng, clip, picture) for _ in range(num_turns)))


def _draw_question(rng: random.Random, clip: Drawn | None, picture: Drawn | None) -> Question:
    if clip is not None and picture is not None:
        return _draw_of_two(rng, clip, picture)
    drawn = clip or picture
    assert drawn is not None
    return _ask(rng, drawn, is_clip=clip is not None)


def _draw_of_two(rng: random.Random, clip: Drawn, picture: Drawn) -> Question:
    """The question names the medium that it is about."""
    is_clip = rng.random() < 0.5
    question = _ask(rng, clip if is_clip else picture, is_clip=is_clip)
    where = _IN_CLIP if is_clip else _IN_PICTURE
    if question.kind == "refusal" or where.split()[-1] in question.text:
        return question
    return Question(question.kind, f"{where.strip().capitalize()}: {question.text}", question.answer)


def _ask(rng: random.Random, drawn: Drawn, *, is_clip: bool) -> Question:
    if isinstance(drawn, Pair):
        kinds = PAIR_CLIP_KINDS if is_clip else PAIR_PICTURE_KINDS
        return ask_about_pair(rng, drawn, _draw_kind(rng, kinds), is_clip=is_clip)
    return ask(rng, drawn, _draw_kind(rng, clip_kinds(drawn) if is_clip else PICTURE_KINDS), is_clip=is_clip)


def _draw_kind(rng: random.Random, kinds: Sequence[str]) -> str:
    return rng.choices(kinds, [_WEIGHTS.get(kind, 1.0) for kind in kinds])[0]
