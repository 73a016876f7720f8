"""Variation in the wording of questions."""

import random


def choose(rng: random.Random, texts: str) -> str:
    """One of several wordings, separated by "|" or by lines."""
    return rng.choice([text.strip() for text in texts.strip().replace("\n", "|").split("|")])


def vary(rng: random.Random, text: str) -> str:
    """Sometimes in British spelling, in lower case or without the last mark."""
    if rng.random() < 0.3:
        text = text.replace("color", "colour")
    if rng.random() < 0.1:
        text = text.lower()
    if rng.random() < 0.1:
        text = text.rstrip("?.")
    return text


def a(thing: str) -> str:
    """With its article; of all shapes and colours only "orange" begins with a vowel."""
    return f"an {thing}" if thing.startswith("o") else f"a {thing}"
