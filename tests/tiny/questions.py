"""Questions about one shape and their answers: the wording varies, the answer to a fact does not."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from .off_topic import ask_off_topic
from .scenes import COLORS, MOTIONS, SHAPES, Scene
from .wording import a, choose, vary

NUMBER = "number"
REFUSAL = "Sorry, I can only answer questions about the shape."

_EVENTS = {
    "left": "moves left", "right": "moves right", "up": "moves up", "down": "moves down", "grow": "grows",
    "shrink": "shrinks", "blink": "blinks", "still": "stays still", "change": "changes color",
}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """One question, its kind, and the only right answer."""

    kind: str
    text: str
    answer: str


def event(scene: Scene) -> str:
    """The answer to "What happens?", such as "It moves left."."""
    return f"It {_EVENTS[scene.motion]}."


def describe_clip(scene: Scene) -> str:
    """The whole clip in one sentence."""
    size = f"{scene.size} " if scene.size else ""
    if scene.motion == "change":
        what = f"{size}{scene.shape} changes from {scene.color} to {scene.end.color}"
    else:
        what = f"{size}{scene.color} {scene.shape} {_EVENTS[scene.motion]}"
    return f"{a(what).capitalize()} on a {scene.background} background."


def describe_picture(scene: Scene) -> str:
    """The whole picture in one sentence."""
    return f"A {scene.size} {scene.color} {scene.shape} {_place(scene)} on a {scene.background} background."


def ask(rng: random.Random, scene: Scene, kind: str, *, is_clip: bool) -> Question:
    """A question of one of `clip_kinds` or `PICTURE_KINDS`."""
    text, answer = (_CLIP_MAKERS if is_clip else _PICTURE_MAKERS)[kind](rng, scene)
    return Question(kind, vary(rng, text), answer)


def clip_kinds(scene: Scene) -> tuple[str, ...]:
    """The kinds that fit this clip: not the size of what grows, not the colour of what changes it."""
    left_out = {"size": scene.size is None, "color": scene.motion == "change"}
    return tuple(kind for kind in CLIP_KINDS if not left_out.get(kind, False))


def refuse(rng: random.Random, _: object) -> tuple[str, str]:
    """A question about something else, and its refusal."""
    return ask_off_topic(rng), REFUSAL


def _place(scene: Scene) -> str:
    return "in the center" if scene.position == "center" else f"at the {scene.position}"


def _it(rng: random.Random, scene: Scene) -> str:
    return rng.choice(("it", "the shape", f"the {scene.shape}"))


# Takes a scene, returns a question's text and its answer.
_Maker = Callable[[random.Random, Scene], tuple[str, str]]


def _plain(texts: str, answer: Callable[[Scene], str]) -> _Maker:
    """Questions whose wording does not depend on the answer."""
    return lambda rng, scene: (choose(rng, texts).format(it=_it(rng, scene)), answer(scene))


def _ask_motion(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """Half of the answers are yes."""
    true = rng.random() < 0.5
    motion = scene.motion if true else _other(rng, MOTIONS, scene.motion)
    verb, _, rest = _EVENTS[motion].partition(" ")
    it = _it(rng, scene)
    asked = f"Does {it} {verb.removesuffix('s')} {rest}".rstrip()
    return f"{asked}?", f"{'Yes' if true else 'No'}, it {_EVENTS[scene.motion]}."


def _ask_existence(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """Half of the answers are yes; a colour that changes is not asked about."""
    true = rng.random() < 0.5
    asks_color = scene.motion != "change" and rng.random() < 0.5
    if asks_color:
        thing, seen = _colored_thing(rng, scene, true=true), f"{scene.color} {scene.shape}"
    else:
        thing, seen = scene.shape if true else _other(rng, SHAPES, scene.shape), scene.shape
    text = choose(rng, "Is there {}? | Do you see {}? | Can you see {}?")
    return text.format(a(thing)), f"{'Yes' if true else 'No'}, there is {a(seen)}."


def _colored_thing(rng: random.Random, scene: Scene, *, true: bool) -> str:
    """Such as "red star" or "red shape"; if not `true`, the colour, the shape or both are wrong."""
    shape, color = scene.shape, scene.color
    wrong = "" if true else rng.choice(("color", "color", "shape", "both"))
    if wrong in ("shape", "both"):
        shape = _other(rng, SHAPES, shape)
    if wrong in ("color", "both"):
        color = _other(rng, tuple(COLORS), color)
    says_shape = wrong in ("shape", "both") or rng.random() < 0.6
    return f"{color} {shape if says_shape else 'shape'}"


def _other(rng: random.Random, values: tuple[str, ...], value: str) -> str:
    return rng.choice([other for other in values if other != value])


def _ask_change(rng: random.Random, scene: Scene) -> tuple[str, str]:
    text = choose(rng, _CHANGE)
    if scene.motion == "change":
        return text, f"It changes from {scene.color} to {scene.end.color}."
    return text, f"It stays {scene.color}."


_COLOR = """
    What color is {it}? | Which color does {it} have? | What is the color of {it}? | And the color?
    Tell me the color.
"""
_SHAPE = "What shape is it? | Which shape is shown? | What shape do you see? | What is the shape? | And the shape?"
_SIZE = "How big is {it}? | Is {it} small or large? | What size is {it}? | What is the size of {it}? | And the size?"
_BACKGROUND = """
    What color is the background? | Which color does the background have? | What is the background?
    And the background?
"""
_DIRECTION = """
    Which way does {it} move? | In which direction does {it} move? | Where does {it} go? | How does {it} move?
    And the direction?
"""
_EVENT = """
    What happens? | What does {it} do? | What happens in the video? | What is happening? | What is {it} doing?
    And what happens?
"""
_CHANGE = """
    Does the color change? | Does its color change? | What happens to the color? | And does the color stay the same?
"""
_POSITION = """
    Where is {it}? | In which part of the image is {it}? | What is the position of {it}? | And where is {it}?
    And the position?
"""
NUMBER_TEXTS = """
    How many shapes are there? | How many shapes do you see? | How many shapes are shown? | Count the shapes.
"""
_DESCRIBE_CLIP = """
    Describe the video. | What do you see in the video? | Describe the clip. | Describe what you see.
    What does the video show?
"""
_DESCRIBE_PICTURE = """
    Describe the image. | What do you see in the image? | Describe the picture. | Describe what you see.
    What does the picture show?
"""

_BOTH_MAKERS: dict[str, _Maker] = {
    "color": _plain(_COLOR, lambda scene: f"It is {scene.color}."),
    "shape": _plain(_SHAPE, lambda scene: f"It is a {scene.shape}."),
    "size": _plain(_SIZE, lambda scene: f"It is {scene.size}."),
    "background": _plain(_BACKGROUND, lambda scene: f"The background is {scene.background}."),
    "existence": _ask_existence,
    "refusal": refuse,
    NUMBER: _plain(NUMBER_TEXTS, lambda _: "There is one shape."),
}
_CLIP_MAKERS: dict[str, _Maker] = _BOTH_MAKERS | {
    "direction": _plain(_DIRECTION, event),
    "event": _plain(_EVENT, event),
    "motion yes/no": _ask_motion,
    "color change": _ask_change,
    "describe": _plain(_DESCRIBE_CLIP, describe_clip),
}
_PICTURE_MAKERS: dict[str, _Maker] = _BOTH_MAKERS | {
    "position": _plain(_POSITION, lambda scene: f"It is {_place(scene)}."),
    "describe": _plain(_DESCRIBE_PICTURE, describe_picture),
}
CLIP_KINDS = tuple(_CLIP_MAKERS)
PICTURE_KINDS = tuple(_PICTURE_MAKERS)
