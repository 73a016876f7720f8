"""Conversations about a scene: what the language model reads, in the product's own prompt format."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from video_llava_export.tokens import IMAGE_TOKEN, VIDEO_TOKEN

from .questions import PICTURE_KINDS, Question, ask, clip_kinds
from .scenes import Scene

# How often a kind is asked for in the training, where not once.
_WEIGHTS = {"existence": 3.0, "motion yes/no": 3.0, "position": 1.5, "describe": 1.3, "direction": 0.8, "refusal": 0.8}
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
    rng: random.Random, *, clip: Scene | None = None, picture: Scene | None = None, num_turns: int = 1
) -> Conversation:
    """A conversation about a clip, a picture, both, or nothing, which is refused."""
    media = f"{IMAGE_TOKEN}\n" * (picture is not None) + f"{VIDEO_TOKEN}\n" * (clip is not None)
    return Conversation(media, tuple(_draw_question(rng, clip, picture) for _ in range(num_turns)))


def _draw_question(rng: random.Random, clip: Scene | None, picture: Scene | None) -> Question:
    if clip is not None and picture is not None:
        return _draw_of_two(rng, clip, picture)
    scene = clip or picture
    assert scene is not None
    return ask(rng, scene, draw_kind(rng, scene, is_clip=clip is not None), is_clip=clip is not None)


def _draw_of_two(rng: random.Random, clip: Scene, picture: Scene) -> Question:
    """The question names the medium that it is about."""
    is_clip = rng.random() < 0.5
    scene = clip if is_clip else picture
    question = ask(rng, scene, draw_kind(rng, scene, is_clip=is_clip), is_clip=is_clip)
    where = _IN_CLIP if is_clip else _IN_PICTURE
    if question.kind == "refusal" or where.split()[-1] in question.text:
        return question
    return Question(question.kind, f"{where.strip().capitalize()}: {question.text}", question.answer)


def draw_kind(rng: random.Random, scene: Scene, *, is_clip: bool) -> str:
    """One of the kinds that this scene can be asked about."""
    kinds: Sequence[str] = clip_kinds(scene) if is_clip else PICTURE_KINDS
    return rng.choices(kinds, [_WEIGHTS.get(kind, 1.0) for kind in kinds])[0]
