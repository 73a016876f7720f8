"""The questions of the exam, and a checkpoint's answers."""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from .answering import Prompt
from .conversations import Conversation, draw_conversation, placeholders
from .off_topic import ask_off_topic
from .painter import paint
from .pair_questions import PAIR_CLIP_KINDS, PAIR_PICTURE_KINDS, ask_about_pair
from .pairs import Drawn, draw_pair
from .questions import CLIP_KINDS, NUMBER, PICTURE_KINDS, REFUSAL, Question, ask, clip_kinds, event
from .scenes import MOTIONS, NUM_FRAMES, Scene, draw_clip, draw_picture

# Of the table in README.md.
NUM_CASES, EXAM_SEED = 100, 1
_SIZES = ((224, 224), (320, 240), (240, 320), (426, 240))
_DIRECTIONS = ("left", "right", "up", "down")
_REVERSIBLE = (*_DIRECTIONS, "grow", "shrink")
_NUM_TURNS = 3
# The number of shapes is asked with the questions about two, since of one shape it has one answer.
_CLIP_KINDS = tuple(kind for kind in CLIP_KINDS if kind != NUMBER)
_PICTURE_KINDS = tuple(kind for kind in PICTURE_KINDS if kind != NUMBER)


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
    """Answers the exam: the reference in process, or a client of a server."""

    def answer(self, prompts: Sequence[Prompt]) -> list[str]:
        """One answer for each prompt."""
        ...


@dataclass(frozen=True, eq=False)
class _Case:
    """A conversation and its media."""

    group: str
    kind: str
    conversation: Conversation
    clip: Sequence[Image.Image] | None = None
    picture: Image.Image | None = None

    def prompt(self, answers: Sequence[str]) -> Prompt:
        """The prompt of the next turn; the turns before it have the checkpoint's own answers."""
        turns = self.conversation.turns[: len(answers) + 1]
        said = [*answers, ""]
        own = tuple(Question(turn.kind, turn.text, text) for turn, text in zip(turns, said, strict=True))
        return Prompt(Conversation(self.conversation.media, own).prompt(len(answers)), self.clip, self.picture)


def sit_exam(answers: Answers, *, num_cases: int, seed: int) -> list[Result]:
    """All questions with their answers, `num_cases` of each kind; they depend on `seed` alone."""
    results = []
    for name, draw_cases in _PARTS.items():
        results += _answer_all(answers, list(draw_cases(random.Random(f"{name}/{seed}"), num_cases)))
    return results


def first_questions(*, num_cases: int, seed: int) -> list[tuple[Prompt, str]]:
    """The exam's prompts whose place in their chat is the first, with the expected answers."""
    cases = (
        case for name, draw_cases in _PARTS.items() for case in draw_cases(random.Random(f"{name}/{seed}"), num_cases)
    )
    return [(case.prompt([]), case.conversation.turns[0].answer) for case in cases]


def _answer_all(answers: Answers, cases: Sequence[_Case]) -> list[Result]:
    """Turn by turn; all cases have the same number of turns."""
    results = []
    said: list[list[str]] = [[] for _ in cases]
    num_turns = len(cases[0].conversation.turns)
    for turn in range(num_turns):
        texts = answers.answer([case.prompt(before) for case, before in zip(cases, said, strict=True)])
        for case, before, text in zip(cases, said, texts, strict=True):
            asked = case.conversation.turns[turn]
            kind = f"turn {turn + 1}" if num_turns > 1 else case.kind
            results.append(Result(case.group, kind, asked.text, asked.answer, text))
            before.append(text)
    return results


def _paint(rng: random.Random, drawn: Drawn | None, num_frames: int = NUM_FRAMES) -> list[Image.Image]:
    if drawn is None:
        return []
    width, height = rng.choice(_SIZES)
    return paint(drawn, width=width, height=height, num_frames=num_frames)


def _make_case(
    rng: random.Random, group: str, kind: str, *turns: Question, clip: Drawn | None = None, picture: Drawn | None = None
) -> _Case:
    """Paint the media."""
    conversation = Conversation(placeholders(clip, picture), turns)
    return _Case(group, kind, conversation, _paint(rng, clip) or None, next(iter(_paint(rng, picture, 1)), None))


def _draw_one(rng: random.Random, kind: str, *, is_clip: bool) -> _Case:
    """About one held-out shape."""
    scene = _draw_clip_for(rng, kind) if is_clip else draw_picture(rng, held_out=True)
    if kind == "refusal":
        question = Question(kind, ask_off_topic(rng, held_out=True), REFUSAL)
    else:
        question = ask(rng, scene, kind, is_clip=is_clip)
    if is_clip:
        return _make_case(rng, "video", kind, question, clip=scene)
    return _make_case(rng, "image", kind, question, picture=scene)


def _draw_clip_for(rng: random.Random, kind: str) -> Scene:
    """A held-out clip that fits the question; if that is about a change of colour, at least half of them change."""
    motion = rng.choice(_DIRECTIONS if kind == "direction" else MOTIONS)
    if kind == "color change" and rng.random() < 0.5:
        motion = "change"
    scene = draw_clip(rng, held_out=True, motion=motion)
    return scene if kind in clip_kinds(scene) else _draw_clip_for(rng, kind)


def _draw_both(rng: random.Random) -> _Case:
    clip, picture = draw_clip(rng, held_out=True), draw_picture(rng, held_out=True)
    turns = draw_conversation(rng, clip=clip, picture=picture).turns
    return _make_case(rng, "image and video", "any", *turns, clip=clip, picture=picture)


def _draw_without_media(rng: random.Random) -> _Case:
    asked = _draw_one(rng, rng.choice(_CLIP_KINDS), is_clip=True).conversation.turns[0]
    return _make_case(rng, "text only", "refusal", Question("refusal", asked.text, REFUSAL))


def _draw_chats(rng: random.Random, num_cases: int) -> Iterator[_Case]:
    for _ in range(num_cases):
        clip, picture = draw_clip(rng, held_out=True), draw_picture(rng, held_out=True)
        about_clip = draw_conversation(rng, clip=clip, num_turns=_NUM_TURNS).turns
        about_picture = draw_conversation(rng, picture=picture, num_turns=_NUM_TURNS).turns
        yield _make_case(rng, "video chat", "", *about_clip, clip=clip)
        yield _make_case(rng, "image chat", "", *about_picture, picture=picture)


def _draw_orders(rng: random.Random, num_cases: int) -> Iterator[_Case]:
    """The same frames forwards, backwards, and the first one only."""
    for number in range(num_cases):
        scene = draw_clip(rng, held_out=True, motion=_REVERSIBLE[number % len(_REVERSIBLE)])
        frames = _paint(rng, scene)
        for kind, shown, seen in (
            ("forwards", frames, scene),
            ("backwards", frames[::-1], scene.reversed()),
            ("first frame only", frames[:1] * NUM_FRAMES, scene.frozen()),
        ):
            question = Question("event", "What happens?", event(seen))
            yield _Case("order", kind, Conversation(placeholders(scene, None), (question,)), clip=shown)


def _draw_pair(rng: random.Random, kind: str, *, is_clip: bool) -> _Case:
    """About a held-out pair; half of the questions about the number are about one shape."""
    drawn: Drawn = draw_pair(rng, held_out=True, is_clip=is_clip)
    question = ask_about_pair(rng, drawn, kind, is_clip=is_clip)
    if kind == NUMBER and rng.random() < 0.5:
        drawn = (draw_clip if is_clip else draw_picture)(rng, held_out=True)
        question = ask(rng, drawn, kind, is_clip=is_clip)
    if is_clip:
        return _make_case(rng, "two in a video", kind, question, clip=drawn)
    return _make_case(rng, "two in an image", kind, question, picture=drawn)


def _draw_pairs(rng: random.Random, num_cases: int) -> Iterator[_Case]:
    for is_clip, kinds in ((True, PAIR_CLIP_KINDS), (False, PAIR_PICTURE_KINDS)):
        for kind in (kind for kind in kinds for _ in range(num_cases) if kind != "refusal"):
            yield _draw_pair(rng, kind, is_clip=is_clip)


# The names are parts of the seeds.
_PARTS: dict[str, Callable[[random.Random, int], Iterable[_Case]]] = {
    "video": lambda rng, num: (_draw_one(rng, kind, is_clip=True) for kind in _CLIP_KINDS for _ in range(num)),
    "image": lambda rng, num: (_draw_one(rng, kind, is_clip=False) for kind in _PICTURE_KINDS for _ in range(num)),
    "both": lambda rng, num: (_draw_both(rng) for _ in range(num)),
    "nothing": lambda rng, num: (_draw_without_media(rng) for _ in range(num)),
    "turns": _draw_chats,
    "order": _draw_orders,
    "pairs": _draw_pairs,
}
