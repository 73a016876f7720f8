"""Questions about two shapes and their answers: how many, which is where, which one moves."""

import random
from collections.abc import Callable

from .pairs import Pair
from .questions import NUMBER, NUMBER_TEXTS, Question, event, refuse
from .scenes import Scene
from .wording import a, choose, vary

_LEFT_OR_RIGHT = """
    Is the {it} left or right of the {other}? | Is the {it} to the left or to the right of the {other}?
    On which side of the {other} is the {it}? | Where is the {it}?
"""
_ON_A_SIDE = "What is on the {side}? | What do you see on the {side}? | Which shape is on the {side}?"
_COLOR = "What color is the {it}? | What is the color of the {it}? | Which color does the {it} have?"
_WHICH_MOVES = "Which one moves? | Which shape moves? | Which of them moves? | What moves?"
_WHICH_STAYS = "Which one stays still? | Which shape does not move? | What does not move?"
_DOES = "What does the {it} do? | What happens to the {it}? | What is the {it} doing?"
_DESCRIBE_CLIP = "Describe the video. | Describe the clip. | Describe what you see."
_DESCRIBE_PICTURE = "Describe the image. | Describe the picture. | Describe what you see."


def ask_about_pair(rng: random.Random, pair: Pair, kind: str, *, is_clip: bool) -> Question:
    """A question of one of `PAIR_CLIP_KINDS` or `PAIR_PICTURE_KINDS`."""
    text, answer = (_CLIP_MAKERS if is_clip else _PICTURE_MAKERS)[kind](rng, pair)
    return Question(kind, vary(rng, text), answer)


def describe_pair(pair: Pair, *, is_clip: bool) -> str:
    """Both in one sentence, the one that moves first."""
    it = pair.mover if is_clip else pair.left
    moves = f" {event(it).removeprefix('It ').rstrip('.')}" if is_clip else ""
    return f"{a(_thing(it)).capitalize()}{moves}, {_side(it, pair)} of {a(_thing(pair.other(it)))}."


def _side(scene: Scene, pair: Pair) -> str:
    return "left" if scene is pair.left else "right"


def _thing(scene: Scene) -> str:
    return f"{scene.color} {scene.shape}"


# Takes a pair and the shape asked about, returns a question's text and its answer.
_PartMaker = Callable[[random.Random, Pair, Scene], tuple[str, str]]
_PairMaker = Callable[[random.Random, Pair], tuple[str, str]]


def _of_either(make: _PartMaker) -> _PairMaker:
    return lambda rng, pair: make(rng, pair, rng.choice(pair.parts))


def _ask_left_or_right(rng: random.Random, pair: Pair, it: Scene) -> tuple[str, str]:
    other = pair.other(it).shape
    return choose(rng, _LEFT_OR_RIGHT).format(it=it.shape, other=other), f"It is {_side(it, pair)} of the {other}."


def _ask_on_a_side(rng: random.Random, pair: Pair, it: Scene) -> tuple[str, str]:
    return choose(rng, _ON_A_SIDE).format(side=_side(it, pair)), f"It is {a(_thing(it))}."


def _ask_color(rng: random.Random, _: Pair, it: Scene) -> tuple[str, str]:
    return choose(rng, _COLOR).format(it=it.shape), f"It is {it.color}."


def _ask_which(rng: random.Random, pair: Pair, it: Scene) -> tuple[str, str]:
    """Which one moves, or which one does not."""
    text = choose(rng, _WHICH_MOVES if it is pair.mover else _WHICH_STAYS)
    return text, event(it).replace("It", f"The {_thing(it)}")


def _ask_what_it_does(rng: random.Random, _: Pair, it: Scene) -> tuple[str, str]:
    return choose(rng, _DOES).format(it=it.shape), event(it)


def _ask_whether_it_moves(_: random.Random, pair: Pair, it: Scene) -> tuple[str, str]:
    return f"Does the {it.shape} move?", f"{'Yes' if it is pair.mover else 'No'}, {event(it).replace('It', 'it')}"


_BOTH_MAKERS: dict[str, _PairMaker] = {
    NUMBER: lambda rng, _: (choose(rng, NUMBER_TEXTS), "There are two shapes."),
    "left or right": _of_either(_ask_left_or_right),
    "on a side": _of_either(_ask_on_a_side),
    "color": _of_either(_ask_color),
    "refusal": refuse,
}
_CLIP_MAKERS = _BOTH_MAKERS | {
    "which one moves": _of_either(_ask_which),
    "what it does": _of_either(_ask_what_it_does),
    "moves yes/no": _of_either(_ask_whether_it_moves),
    "describe": lambda rng, pair: (choose(rng, _DESCRIBE_CLIP), describe_pair(pair, is_clip=True)),
}
_PICTURE_MAKERS = _BOTH_MAKERS | {
    "describe": lambda rng, pair: (choose(rng, _DESCRIBE_PICTURE), describe_pair(pair, is_clip=False)),
}
PAIR_CLIP_KINDS = tuple(_CLIP_MAKERS)
PAIR_PICTURE_KINDS = tuple(_PICTURE_MAKERS)
