"""The lines of the input: one JSON object each, one question each."""

import codecs
import hashlib
import json
import math
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
    "frame_indices": (list,),
    "frame_seconds": (list,),
    "video_stream": (int,),
    "max_tokens": (int,),
    "temperature": _NUMBER,
    "timeout_seconds": _NUMBER,
    "sampling": (dict,),
    "lora_name": (str,),
}
FIELDS = ("id", *_TYPES)
_MAX_ID_LEVELS = 20  # Python can read deeper ones than it can write


@dataclass(frozen=True)
class Line:
    """One line of the input.

    Attributes:
        number: Its number in the file, from 1; empty lines count.
        index: Its number among the lines that are not empty, from 0.
        data: Its bytes, without white space at both ends.
        is_terminated: Whether a line feed ends it; without one, its writer may not have finished it.
    """

    number: int
    index: int
    data: bytes = field(repr=False)
    is_terminated: bool = True

    @property
    def copied(self) -> Mapping[str, Any]:
        """Nothing: `parse` returns the line's id."""
        return {}

    @property
    def num_bytes(self) -> int:
        """The line's own."""
        return len(self.data)

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that depend on the bytes."""
        return hashlib.blake2b(self.data, digest_size=8).hexdigest()

    def parse(self) -> dict[str, Any]:
        """Return the line's object."""
        where = f"line {self.number}"
        value = parse_object(self.data, where)
        check_fields(value, where)
        return value


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object in these bytes; numbers are finite. Raises PromptError."""
    try:
        value = json.loads(data.decode(), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as exc:
        raise PromptError(f"{where} is not JSON ({exc})") from exc
    if not isinstance(value, dict):
        raise PromptError(f"{where} must be a JSON object, got {type(value).__name__}")
    return value


def check_fields(values: Mapping[str, Any], where: str) -> None:
    """Raise OptionError if these are not arguments of `ask` and an id."""
    for name, given in values.items():
        if name not in FIELDS:
            raise OptionError(f"{where}: unknown field {name!r}; known are {', '.join(FIELDS)}")
        kinds = _TYPES.get(name)
        if kinds and (not isinstance(given, kinds) or isinstance(given, bool)):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise OptionError(f"{where}: {name} must be {expected}, got {given!r:.80}")
        if name == "id" and _is_deep(given):
            raise OptionError(f"{where}: id is nested in more than {_MAX_ID_LEVELS} levels")


def read_lines(file: Iterable[bytes]) -> Iterator[Line]:
    """Yield the lines that are not empty, without a byte order mark."""
    index = 0
    for number, data in enumerate(file, start=1):
        text = data.removeprefix(codecs.BOM_UTF8).strip() if number == 1 else data.strip()
        if text:
            yield Line(number, index, text, is_terminated=data.endswith(b"\n"))
            index += 1


def ask_options(line: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `ask` for a parsed line, which override `defaults`."""
    options = {name: value for name, value in line.items() if name != "id"}
    sampling = {**(defaults.get("sampling") or {}), **options.get("sampling", {})}
    return {**defaults, **options, "sampling": sampling}


def kept_options(model: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides about the answers of all lines, each by its name."""
    sampling = defaults.get("sampling") or {}
    others = {name: value for name, value in defaults.items() if name != "sampling" and value is not None}
    return {"model": model, **others, **sampling}


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _is_deep(value: Any, max_levels: int = _MAX_ID_LEVELS) -> bool:
    """Whether lists and objects are nested in more than `max_levels`."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return max_levels < 0 or any(_is_deep(child, max_levels - 1) for child in children)
