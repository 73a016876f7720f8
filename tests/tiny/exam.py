"""The questions of the evaluation, and what a checkpoint answered."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from .answering import Prompt
from .conversations import Conversation, draw_conversation
from .painter import paint
from .pair_questions import PAIR_CLIP_KINDS, PAIR_PICTURE_KINDS, ask_about_pair
from .pairs import Drawn, draw_pair
from .questions import CLIP_KINDS, NUMBER, PICTURE_KINDS, REFUSAL, Question, ask, clip_kinds, event
from .scenes import MOTIONS, NUM_FRAMES, Scene, draw_clip, draw_picture
from .smalltalk import ask_unknown

# Of the tables in the documentation.
NUM_CASES, EXAM_SEED = 100, 1
_SIZES = ((224, 224), (320, 240), (240, 320), (426, 240))
_DIRECTIONS = ("left", "right", "up", "down")
_REVERSIBLE = (*_DIRECTIONS, "grow", "shrink")
_NUM_TURNS = 3
# What is asked of one shape: not how many there are, which would have one answer.
_CLIP_KINDS = tuple(kind for kind in CLIP_KINDS if kind != NUMBER)
_PICTURE_KINDS = tuple(kind for kind in PICTURE_KINDS if kind != NUMBER)
_WHAT_HAPPENS = Question("event", "What happens?", "")


@dataclass(frozen=True)
class Result:
    """One answered question; `group` and `kind` name its row of the table."""

    group: str
    kind: str
    question: str
    expected: str
    answer: str

    @property
    def is_right(self) -> bool:
        """To the letter."""
        return self.answer == self.expected


class Answers(Protocol):
    """Who answers: the reference in process, or a client of a server."""

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer for each prompt."""
        ...


@dataclass(frozen=True, eq=False)
class _Case:
    """A conversation, the media it is about, and the answers so far."""

    group: str
    kind: str
    conversation: Conversation
    clip: Sequence[Image.Image] | None = None
    picture: Image.Image | None = None

    def prompt(self, turn: int, said: Sequence[str]) -> Prompt:
        """The prompt of turn `turn`, with the checkpoint's own answers of the turns before it."""
        turns = [
            Question(turn.kind, turn.text, text) for turn, text in zip(self.conversation.turns, said, strict=False)
        ]
        own = Conversation(self.conversation.media, (*turns, *self.conversation.turns[turn : turn + 1]))
        return Prompt(own.prompt(turn), self.clip, self.picture)


def sit_exam(answers: Answers, *, num_cases: int, seed: int) -> list[Result]:
    """All questions, answered: `num_cases` of each kind about clips, about pictures, about both, and in later turns."""
    results = []
    for name, make in _PARTS.items():
        rng = random.Random(f"{name}/{seed}")
        results += _answer_all(answers, make(rng, num_cases))
    return results


def _answer_all(answers: Answers, cases: Sequence[_Case]) -> list[Result]:
    """Turn by turn."""
    results = []
    said: list[list[str]] = [[] for _ in cases]
    for turn in range(max(len(case.conversation.turns) for case in cases)):
        texts = answers.answer([case.prompt(turn, before) for case, before in zip(cases, said, strict=True)])
        for case, before, text in zip(cases, said, texts, strict=True):
            asked = case.conversation.turns[turn]
            kind = f"turn {turn + 1}" if len(case.conversation.turns) > 1 else case.kind
            results.append(Result(case.group, kind, asked.text, asked.answer, text))
            before.append(text)
    return results


def _paint_clip(rng: random.Random, drawn: Drawn) -> list[Image.Image]:
    width, height = rng.choice(_SIZES)
    return paint(drawn, width=width, height=height, num_frames=NUM_FRAMES)


def _paint_picture(rng: random.Random, drawn: Drawn) -> Image.Image:
    width, height = rng.choice(_SIZES)
    return paint(drawn, width=width, height=height, num_frames=1)[0]


def _ask_about_clips(rng: random.Random, num_cases: int) -> list[_Case]:
    return [_ask_about_clip(rng, kind) for kind in _CLIP_KINDS for _ in range(num_cases)]


def _ask_about_clip(rng: random.Random, kind: str) -> _Case:
    scene = _draw_clip_for(rng, kind)
    question = _refuse(rng) if kind == "refusal" else ask(rng, scene, kind, is_clip=True)
    return _Case("video", kind, Conversation("<video>\n", (question,)), clip=_paint_clip(rng, scene))


def _draw_clip_for(rng: random.Random, kind: str) -> Scene:
    """A held-out clip that can be asked about; half of the questions about a changing colour are of such clips."""
    motions = _DIRECTIONS if kind == "direction" else MOTIONS
    motion = rng.choice(motions)
    if kind == "color change" and rng.random() < 0.5:
        motion = "change"
    scene = draw_clip(rng, held_out=True, motion=motion)
    return scene if kind in clip_kinds(scene) else _draw_clip_for(rng, kind)


def _ask_about_pictures(rng: random.Random, num_cases: int) -> list[_Case]:
    return [_ask_about_picture(rng, kind) for kind in _PICTURE_KINDS for _ in range(num_cases)]


def _ask_about_picture(rng: random.Random, kind: str) -> _Case:
    scene = draw_picture(rng, held_out=True)
    question = _refuse(rng) if kind == "refusal" else ask(rng, scene, kind, is_clip=False)
    return _Case("image", kind, Conversation("<image>\n", (question,)), picture=_paint_picture(rng, scene))


def _ask_about_pairs(rng: random.Random, num_cases: int) -> list[_Case]:
    asked = [(True, kind) for kind in PAIR_CLIP_KINDS] + [(False, kind) for kind in PAIR_PICTURE_KINDS]
    asked = [pair for pair in asked if pair[1] != "refusal"]
    return [_case_of_pair(rng, kind, is_clip=is_clip) for is_clip, kind in asked for _ in range(num_cases)]


def _case_of_pair(rng: random.Random, kind: str, *, is_clip: bool) -> _Case:
    """Of a held-out pair; of the questions how many there are, half are of one shape."""
    drawn: Drawn = draw_pair(rng, held_out=True, is_clip=is_clip)
    question = ask_about_pair(rng, drawn, kind, is_clip=is_clip)
    if kind == NUMBER and rng.random() < 0.5:
        drawn = draw_clip(rng, held_out=True) if is_clip else draw_picture(rng, held_out=True)
        question = ask(rng, drawn, kind, is_clip=is_clip)
    if is_clip:
        return _Case("two in a video", kind, Conversation("<video>\n", (question,)), clip=_paint_clip(rng, drawn))
    return _Case("two in an image", kind, Conversation("<image>\n", (question,)), picture=_paint_picture(rng, drawn))


def _refuse(rng: random.Random) -> Question:
    return Question("refusal", ask_unknown(rng, held_out=True), REFUSAL)


def _ask_about_both(rng: random.Random, num_cases: int) -> list[_Case]:
    return [_case_of_both(rng) for _ in range(num_cases)]


def _case_of_both(rng: random.Random) -> _Case:
    clip, picture = draw_clip(rng, held_out=True), draw_picture(rng, held_out=True)
    conversation = draw_conversation(rng, clip=clip, picture=picture)
    return _Case("image and video", "any", conversation, _paint_clip(rng, clip), _paint_picture(rng, picture))


def _ask_nothing_seen(rng: random.Random, num_cases: int) -> list[_Case]:
    cases = []
    for _ in range(num_cases):
        asked = _ask_about_clip(rng, rng.choice(_CLIP_KINDS)).conversation.turns[0]
        cases.append(_Case("text only", "refusal", Conversation("", (Question("refusal", asked.text, REFUSAL),))))
    return cases


def _ask_in_turns(rng: random.Random, num_cases: int) -> list[_Case]:
    cases = []
    for _ in range(num_cases):
        clip, picture = draw_clip(rng, held_out=True), draw_picture(rng, held_out=True)
        about_clip = draw_conversation(rng, clip=clip, num_turns=_NUM_TURNS)
        about_picture = draw_conversation(rng, picture=picture, num_turns=_NUM_TURNS)
        cases.append(_Case("video chat", "", about_clip, clip=_paint_clip(rng, clip)))
        cases.append(_Case("image chat", "", about_picture, picture=_paint_picture(rng, picture)))
    return cases


def _ask_about_order(rng: random.Random, num_cases: int) -> list[_Case]:
    """The same frames forwards, backwards, and the first one only."""
    cases = []
    for number in range(num_cases):
        scene = draw_clip(rng, held_out=True, motion=_REVERSIBLE[number % len(_REVERSIBLE)])
        frames = _paint_clip(rng, scene)
        for kind, shown, seen in (
            ("forwards", frames, scene),
            ("backwards", frames[::-1], scene.reversed()),
            ("first frame only", frames[:1] * NUM_FRAMES, scene.frozen()),
        ):
            question = Question("event", _WHAT_HAPPENS.text, event(seen))
            cases.append(_Case("order", kind, Conversation("<video>\n", (question,)), clip=shown))
    return cases


_PARTS: dict[str, Callable[[random.Random, int], list[_Case]]] = {
    "video": _ask_about_clips,
    "image": _ask_about_pictures,
    "both": _ask_about_both,
    "nothing": _ask_nothing_seen,
    "turns": _ask_in_turns,
    "order": _ask_about_order,
    "pairs": _ask_about_pairs,
}
