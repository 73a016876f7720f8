"""What sampling parameters mean, read another way than the parser reads them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

import numpy as np

from support.request_cases import SAMPLING_PARAMETERS

MAX_SEQUENCES = 128
_OF_RANDOM_SAMPLING = {"top_p": 1, "top_k": 0, "min_p": 0}
"""What vLLM sets these to where `temperature` says greedy."""


def check(given: Mapping[str, Any], params: Any, default: Any) -> None:
    """Check that the engine's parameters are what was given, and the documented defaults otherwise."""
    assert (default.temperature, default.max_tokens) == (0, 256)
    assert set(given) <= set(SAMPLING_PARAMETERS)
    greedy = params.temperature < 1e-5
    for name in SAMPLING_PARAMETERS:
        value = getattr(params, name)
        want = meant(name, given[name]) if name in given else getattr(default, name)
        assert value == (_OF_RANDOM_SAMPLING.get(name, want) if greedy else want), f"{name} is {value!r}"
        assert all(map(fits_the_engine, numbers(value))), f"{name} is {value!r}"
    assert not (params.ignore_eos and params.structured_outputs)
    assert params.output_kind == default.output_kind
    assert 1 <= params.n <= MAX_SEQUENCES
    assert params.repetition_penalty > 1e-38


def meant(name: str, value: Any) -> Any:
    """What the caller said. Numbers and truth values may be written as texts."""
    if value is None or (name != "stop" and isinstance(value, str) and value.lower() == "null"):
        return [] if name in ("stop", "bad_words", "stop_token_ids") else None
    return _READERS.get(name, number)(value)


def number(value: Any) -> Any:
    """Read a number or a truth value without losing digits."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    exact = Decimal(value)
    return int(exact) if exact.is_finite() and exact == exact.to_integral_value() else float(value)


class Constraint:
    """Equals the engine's structured outputs if they hold what was given and nothing else."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given

    def __eq__(self, other: Any) -> bool:
        fields = {field.name: field for field in dataclasses.fields(other)}
        assert self._given.keys() <= {"json", "regex", "choice", "grammar", "json_object", "structural_tag"}
        given = {name: field.default for name, field in fields.items()} | dict(self._given)
        return all(same(getattr(other, name), value) for name, value in given.items())

    __hash__: Any = None


def same(value: object, given: object) -> bool:
    """Compare a constraint's value with what was given, where "true" may stand for true and "null" for nothing."""
    return repr(value) == repr(given) or meant("", given) == value


def numbers(value: Any) -> Iterator[float | int]:
    """Yield the numbers in a parameter's value."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, int | float):
            yield item


def fits_the_engine(value: float) -> bool:
    """Whether a number is one in 64 bits, or in the float32 that the sampler computes in."""
    if isinstance(value, int):
        return -(2**63) <= value < 2**63
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.float32(value)))


_READERS: dict[str, Callable[[Any], Any]] = {
    "stop": lambda value: [value] if isinstance(value, str) else value,
    "bad_words": lambda value: list(dict.fromkeys(value)),
    "stop_token_ids": lambda value: list(dict.fromkeys(map(number, value))),
    "allowed_token_ids": lambda value: list(map(number, value)),
    "logit_bias": lambda value: {number(token): number(bias) for token, bias in value.items()},
    "structured_outputs": Constraint,
    "seed": lambda value: None if number(value) == -1 else number(value),
    # Below this vLLM's sampler would lose its numbers.
    "temperature": lambda value: max(0.01, number(value)) if number(value) > 0 else 0,
}
