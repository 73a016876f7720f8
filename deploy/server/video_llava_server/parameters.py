"""Sampling parameters that are this server's own and that `intake` reads too, before the encoders."""

import json
from typing import Any

from .errors import InvalidArgument

MAX_PARAMETERS_CHARACTERS = 2**20
"""JSON of a hundred megabytes takes seconds to read, and everybody else would wait for it."""
PRIORITY = "priority"
"""The sampling parameter that says who waits for whom: requests with a lower number go first, as in vLLM"""
MAX_PRIORITY = 1000


def named(name: str, *parameters: str) -> object:
    """Return the value of `name` in the first of these JSON objects that has it and can be read; None: none."""
    for text in parameters:
        if name in text and len(text) <= MAX_PARAMETERS_CHARACTERS:
            try:
                values = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(values, dict) and name in values:
                return values[name]
    return None


def as_priority(value: Any) -> int:
    """Return a priority; None is 0, that of callers who say nothing. Raises InvalidArgument.

    Nobody comes before those: a caller can only step back.
    """
    number = int(value) if isinstance(value, str) and value.isdecimal() else 0 if value is None else value
    if type(number) is not int or not 0 <= number <= MAX_PRIORITY:
        raise InvalidArgument(
            f"sampling_parameters: {PRIORITY} is {value!r}, expected a whole number from 0 (the default, first) to "
            f"{MAX_PRIORITY} (last)"
        )
    return number
