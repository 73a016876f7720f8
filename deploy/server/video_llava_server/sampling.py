"""The caller's sampling parameters become the engine's, or are refused by name."""

from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

import msgspec
import numpy as np
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from .constraints import check_constraint
from .errors import InvalidArgument

SAMPLING_PARAMETERS = (
    "allowed_token_ids",
    "bad_words",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "skip_special_tokens",
    "spaces_between_special_tokens",
    "stop",
    "stop_token_ids",
    "structured_outputs",
    "temperature",
    "top_k",
    "top_p",
)
"""What a caller may set: vLLM's SamplingParams without the engine's own switches and without scores of prompt
tokens, which a prompt made of embeddings does not have."""

_DEFAULTS = {"max_tokens": 256, "temperature": 0.0}
"""For what a caller leaves out, as video_llava_client sends it. vLLM's are 16 tokens at temperature 1."""

_TYPES = {name: get_type_hints(SamplingParams)[name] for name in SAMPLING_PARAMETERS}

# No number of the engine's takes more; past it a request, or with a seed the whole engine process, would fail.
_INT64 = range(-(2**63), 2**63)

_MAX_LENGTHS = {
    # A sequence each, with a copy of the prompt's embeddings on its way to the engine.
    "n": 128,
    # As many as vLLM's sampler for GPUs has room for; past it the engine's process would fail.
    "allowed_token_ids": 1024,
    "logit_bias": 1024,
    "stop_token_ids": 128,
    # All are looked for in every token's text.
    "stop": 128,
}
"""How many there may be of what a parameter counts or lists."""


def parse_sampling(sampling: Mapping[str, object], *, stream: bool) -> SamplingParams:
    """Make vLLM's SamplingParams; strings such as "256" are coerced, as Triton's vLLM backend does.

    Raises InvalidArgument, naming the parameter, its value and what is allowed.
    """
    values = _DEFAULTS | {name: _convert(name, value) for name, value in sampling.items()}
    if values.get("ignore_eos") and values.get("structured_outputs"):
        raise InvalidArgument(
            "sampling_parameters: ignore_eos is true beside structured_outputs, whose answer ends with the end token: "
            "leave out one of them"
        )
    kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
    try:
        return SamplingParams(**values, output_kind=kind)
    except (VLLMClientError, ValueError) as exc:
        raise InvalidArgument(f"sampling_parameters: {exc}") from exc


def _convert(name: str, value: object) -> Any:
    if name not in _TYPES:
        raise InvalidArgument(
            f"sampling_parameters: unknown parameter {name!r}; supported are {', '.join(SAMPLING_PARAMETERS)}"
        )
    try:
        converted = msgspec.convert(value, _TYPES[name], strict=False)
    except (msgspec.ValidationError, VLLMClientError, ValueError) as exc:
        raise InvalidArgument(f"sampling_parameters: {name} is {value!r}: {exc}") from exc
    _check_numbers(name, converted)
    _check_length(name, converted)
    if isinstance(value, dict) and isinstance(converted, StructuredOutputsParams):
        check_constraint(value)
    return converted


def _check_numbers(name: str, value: object) -> None:
    """Refuse a number that the sampler cannot hold."""
    for number in _numbers(value):
        if isinstance(number, int) and number not in _INT64:
            raise InvalidArgument(f"sampling_parameters: {name} is {value}, it must fit in 64 bits")
        with np.errstate(over="ignore"):
            if isinstance(number, float) and not np.isfinite(np.float32(number)):
                raise InvalidArgument(f"sampling_parameters: {name} is {value}, it must be finite in 32 bits")
    if name == "repetition_penalty" and isinstance(value, float) and 0 < value < np.finfo(np.float32).tiny:
        raise InvalidArgument(f"sampling_parameters: {name} is {value}, which is 0 in 32 bits")


def _numbers(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list) else [value]


def _check_length(name: str, value: object) -> None:
    length = value if isinstance(value, int) else len(value) if isinstance(value, list | dict) else 0
    if length > _MAX_LENGTHS.get(name, length):
        raise InvalidArgument(f"sampling_parameters: {name} has or is {length}, at most {_MAX_LENGTHS[name]} can be")
