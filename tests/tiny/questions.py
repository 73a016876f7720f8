"""Questions about a scene and their answers: varied questions, one short answer for each fact."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from .scenes import COLORS, MOTIONS, SHAPES, Scene
from .smalltalk import ask_unknown

# Of one shape it has one answer only, so that it is examined where there are two as well.
NUMBER = "number"
REFUSAL = "Sorry, I can only answer questions about the shape."

_EVENTS = {
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
    "grow": "grows",
    "shrink": "shrinks",
    "blink": "blinks",
    "still": "stays still",
    "change": "changes color",
}
_DOES = {name: text.replace("moves", "move") for name, text in _EVENTS.items()} | {
    "grow": "grow",
    "shrink": "shrink",
    "blink": "blink",
    "still": "stay still",
    "change": "change color",
}
_PLACES = {"center": "in the center"}


@dataclass(frozen=True)
class Question:
    """One question, what kind it is of, and the only right answer."""

    kind: str
    text: str
    answer: str


def event(scene: Scene) -> str:
    """The answer to what happens, say "It moves left."."""
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
    makers = _CLIP_MAKERS if is_clip else _PICTURE_MAKERS
    text, answer = makers[kind](rng, scene)
    return Question(kind, vary(rng, text), answer)


def clip_kinds(scene: Scene) -> tuple[str, ...]:
    """What can be asked about this clip: not the size of what grows, not the colour of what changes it."""
    left_out = set()
    if scene.size is None:
        left_out.add("size")
    if scene.motion == "change":
        left_out.add("color")
    return tuple(kind for kind in CLIP_KINDS if kind not in left_out)


def a(thing: str) -> str:
    """With its article; "orange" is the only word of this world that begins with a vowel."""
    return f"an {thing}" if thing.startswith("o") else f"a {thing}"


def vary(rng: random.Random, text: str) -> str:
    """Sometimes British, in lower case or without its full stop."""
    if rng.random() < 0.3:
        text = text.replace("color", "colour")
    if rng.random() < 0.1:
        text = text.lower()
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    return text


def _place(scene: Scene) -> str:
    return _PLACES.get(scene.position, f"at the {scene.position}")


_Maker = Callable[[random.Random, Scene], tuple[str, str]]


def _plain(texts: tuple[str, ...], answer: Callable[[Scene], str]) -> _Maker:
    """A question whose wording does not depend on its answer."""

    def make(rng: random.Random, scene: Scene) -> tuple[str, str]:
        text = rng.choice(texts)
        return text.format(it=rng.choice(("it", "the shape", f"the {scene.shape}"))), answer(scene)

    return make


def _ask_motion(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """Half of the answers are yes."""
    true = rng.random() < 0.5
    motion = scene.motion if true else rng.choice([motion for motion in MOTIONS if motion != scene.motion])
    it = rng.choice(("it", "the shape", f"the {scene.shape}"))
    return f"Does {it} {_DOES[motion]}?", f"{'Yes' if true else 'No'}, it {_EVENTS[scene.motion]}."


def _ask_existence(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """Half of the answers are yes; a colour is asked for only where it stays the same."""
    true = rng.random() < 0.5
    asks_color = scene.motion != "change" and rng.random() < 0.5
    thing = _colored(rng, scene, true=true) if asks_color else _shaped(rng, scene, true=true)
    seen = f"{scene.color} {scene.shape}" if asks_color else scene.shape
    text = rng.choice(("Is there {}?", "Do you see {}?", "Can you see {}?"))
    return text.format(a(thing)), f"{'Yes' if true else 'No'}, there is {a(seen)}."


def _shaped(rng: random.Random, scene: Scene, *, true: bool) -> str:
    return scene.shape if true else rng.choice([shape for shape in SHAPES if shape != scene.shape])


def _colored(rng: random.Random, scene: Scene, *, true: bool) -> str:
    """A thing that differs in its colour, its shape or both where `true` is false."""
    shape, color = scene.shape, scene.color
    wrong = "" if true else rng.choice(("color", "color", "shape", "both"))
    if wrong in ("shape", "both"):
        shape = _shaped(rng, scene, true=False)
    if wrong in ("color", "both"):
        color = rng.choice([other for other in COLORS if other != scene.color])
    says_shape = wrong in ("shape", "both") or rng.random() < 0.6
    return f"{color} {shape if says_shape else 'shape'}"


def _ask_change(rng: random.Random, scene: Scene) -> tuple[str, str]:
    text = rng.choice(
        (
            "Does the color change?",
            "Does its color change?",
            "What happens to the color?",
            "And does the color stay the same?",
        )
    )
    if scene.motion == "change":
        return text, f"It changes from {scene.color} to {scene.end.color}."
    return text, f"It stays {scene.color}."


_COLOR = (
    "What color is {it}?",
    "Which color does {it} have?",
    "What is the color of {it}?",
    "And the color?",
    "Tell me the color.",
)
_SHAPE = (
    "What shape is it?",
    "Which shape is shown?",
    "What shape do you see?",
    "What is the shape?",
    "And the shape?",
)
_SIZE = (
    "How big is {it}?",
    "Is {it} small or large?",
    "What size is {it}?",
    "What is the size of {it}?",
    "And the size?",
)
_BACKGROUND = (
    "What color is the background?",
    "Which color does the background have?",
    "What is the background?",
    "And the background?",
)
_DIRECTION = (
    "Which way does {it} move?",
    "In which direction does {it} move?",
    "Where does {it} go?",
    "How does {it} move?",
    "And the direction?",
)
_EVENT = (
    "What happens?",
    "What does {it} do?",
    "What happens in the video?",
    "What is happening?",
    "What is {it} doing?",
    "And what happens?",
)
_POSITION = (
    "Where is {it}?",
    "In which part of the image is {it}?",
    "What is the position of {it}?",
    "And where is {it}?",
    "And the position?",
)
NUMBER_TEXTS = (
    "How many shapes are there?",
    "How many shapes do you see?",
    "How many shapes are shown?",
    "Count the shapes.",
)
_DESCRIBE_CLIP = (
    "Describe the video.",
    "What do you see in the video?",
    "Describe the clip.",
    "Describe what you see.",
    "What does the video show?",
)
_DESCRIBE_PICTURE = (
    "Describe the image.",
    "What do you see in the image?",
    "Describe the picture.",
    "Describe what you see.",
    "What does the picture show?",
)


def refuse(rng: random.Random, _: object) -> tuple[str, str]:
    """A question that is none of these, and its refusal."""
    return ask_unknown(rng), REFUSAL


_ABOUT_LOOKS: dict[str, _Maker] = {
    "color": _plain(_COLOR, lambda scene: f"It is {scene.color}."),
    "shape": _plain(_SHAPE, lambda scene: f"It is a {scene.shape}."),
    "size": _plain(_SIZE, lambda scene: f"It is {scene.size}."),
    "background": _plain(_BACKGROUND, lambda scene: f"The background is {scene.background}."),
    "existence": _ask_existence,
    "refusal": refuse,
    NUMBER: _plain(NUMBER_TEXTS, lambda _: "There is one shape."),
}
_CLIP_MAKERS: dict[str, _Maker] = _ABOUT_LOOKS | {
    "direction": _plain(_DIRECTION, event),
    "event": _plain(_EVENT, event),
    "motion yes/no": _ask_motion,
    "color change": _ask_change,
    "describe": _plain(_DESCRIBE_CLIP, describe_clip),
}
_PICTURE_MAKERS: dict[str, _Maker] = _ABOUT_LOOKS | {
    "position": _plain(_POSITION, lambda scene: f"It is {_place(scene)}."),
    "describe": _plain(_DESCRIBE_PICTURE, describe_picture),
}
CLIP_KINDS = tuple(_CLIP_MAKERS)
PICTURE_KINDS = tuple(_PICTURE_MAKERS)
