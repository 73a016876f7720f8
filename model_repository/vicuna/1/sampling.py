"""The caller's sampling parameters become the engine's, or are refused by name."""

import math
from collections.abc import Mapping
from typing import Any, get_type_hints

import msgspec
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind, SamplingParams

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

_TYPES = {name: get_type_hints(SamplingParams)[name] for name in SAMPLING_PARAMETERS}

# No number of the engine's takes more; past it a request, or with a seed the whole engine process, would fail.
_INT64 = range(-(2**63), 2**63)


def parse_sampling(sampling: Mapping[str, object], *, stream: bool) -> SamplingParams:
    """Make vLLM's SamplingParams; strings such as "256" are coerced, as Triton's vLLM backend does.

    Raises InvalidArgument, naming the parameter, its value and what is allowed.
    """
    values = {name: _convert(name, value) for name, value in sampling.items()}
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
    if isinstance(converted, int) and converted not in _INT64:
        raise InvalidArgument(f"sampling_parameters: {name} is {converted}, it must fit in 64 bits")
    if isinstance(converted, dict) and not all(map(math.isfinite, converted.values())):
        raise InvalidArgument(f"sampling_parameters: {name} is {value!r}: its values must be finite")
    return converted
