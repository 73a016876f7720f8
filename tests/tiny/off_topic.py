"""Questions that no scene answers: patterns filled with words, some of them made up."""

import random

from .wording import choose

_PATTERNS = """
    What is the capital of {}? | What is the name of the {}? | Who made the {}? | Why is the {} so {}?
    When was the {} made? | How much does the {} cost? | What does the {} taste like? | What sound does the {} make?
    Tell me a story about the {}. | Write a poem about {}. | Where do {} live? | How do I cook {}?
    Can you sing a {} song? | What is {} plus {}? | What is the weather in {}? | What time is it in {}?
    How many {} are in {}? | Translate {} into {}. | Is {} better than {}? | Hello {}. | Do you know {}?
    Do you want {} or {}? | Are you a {}? | Who likes {}? | How far is the {}? | Tell me what {} means.
"""
# Only the exam asks these.
_HELD_OUT_PATTERNS = """
    Who is the {}? | How old is the {}? | Tell me about {}. | Do you like {}? | Who won the {} game?
"""
_WORDS = """
    France Paris Berlin London Rome Japan China India Spain dogs cats birds fish people king queen president doctor
    teacher music film book house car train water bread cheese soup rice two three seven ten happy sad fast slow old
    new rich famous movie camera artist author city country river mountain football chess summer winter morning world
    moon sun sea English German Latin love money time history science computer phone friend mother
""".split()  # noqa: SIM905
_ONSETS = "b c d f g h j k l m n p r s t v w z br tr st ch".split()  # noqa: SIM905
_VOWELS = "a e i o u ai ou ee".split()  # noqa: SIM905


def ask_off_topic(rng: random.Random, *, held_out: bool = False) -> str:
    """One such question."""
    pattern = choose(rng, _HELD_OUT_PATTERNS if held_out else _PATTERNS)
    return pattern.format(*(_word(rng) for _ in range(pattern.count("{}"))))


def _word(rng: random.Random) -> str:
    if rng.random() < 0.7:
        return rng.choice(_WORDS)
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.randint(1, 3)))
