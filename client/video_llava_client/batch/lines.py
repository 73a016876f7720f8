"""The lines of the input: one JSON object each, one question each."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import OptionError, PromptError

_NUMBER = (int, float)
_TYPES: dict[str, tuple[type, ...]] = {
    "question": (str,),
    "prompt": (str,),
    "video": (str, list),
    "images": (str, list),
    "start_seconds": _NUMBER,
    "end_seconds": _NUMBER,
    "max_tokens": (int,),
    "temperature": _NUMBER,
    "timeout_seconds": _NUMBER,
    "sampling": (dict,),
}
FIELDS = ("id", *_TYPES)


@dataclass(frozen=True)
class Line:
    """One line of the input.

    Attributes:
        number: Its number in the file, from 1; empty lines count.
        text: Its text.
    """

    number: int
    text: str = field(repr=False)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that depend on the text."""
        return hashlib.blake2b(self.text.encode(errors="surrogateescape"), digest_size=8).hexdigest()

    def parse(self) -> dict[str, Any]:
        """Return the line's object."""
        try:
            value = json.loads(self.text)
        except ValueError as exc:
            raise PromptError(f"line {self.number} is not JSON ({exc})") from exc
        if not isinstance(value, dict):
            raise PromptError(f"line {self.number} must be a JSON object, got {type(value).__name__}")
        for name, given in value.items():
            self._check(name, given)
        return value

    def _check(self, name: str, given: Any) -> None:
        if name not in FIELDS:
            raise OptionError(f"line {self.number}: unknown field {name!r}; known are {', '.join(FIELDS)}")
        kinds = _TYPES.get(name)
        if kinds and (not isinstance(given, kinds) or isinstance(given, bool)):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise OptionError(f"line {self.number}: {name} must be {expected}, got {given!r}")


def read_lines(file: Iterable[str]) -> Iterator[Line]:
    """Yield the lines that are not empty."""
    for number, text in enumerate(file, start=1):
        if text.strip():
            yield Line(number, text.strip())


def ask_options(line: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `ask` for a parsed line, which override `defaults`."""
    options = {name: value for name, value in line.items() if name != "id"}
    sampling = {**(defaults.get("sampling") or {}), **options.get("sampling", {})}
    return {**defaults, **options, "sampling": sampling}
