"""The tensors of one request become one checked value."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .errors import InvalidArgument
from .lora import PARAMETER
from .parameters import MAX_PARAMETERS_CHARACTERS, PRIORITY, as_priority
from .sampling import SAMPLING_PARAMETERS
from .tensors import RETURN_FLAGS, flag, text

_PARAMETERS = (*SAMPLING_PARAMETERS, PARAMETER)

# What callers may send beside sampling parameters: Triton's own, and headers that it forwards
# (--grpc-header-forward-pattern, --http-header-forward-pattern), known by a hyphen or by their names.
_TRITONS = {
    *("id", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout"),
    *("binary_data_output", "binary_data", "binary_data_size", "classification"),
}
_HEADERS = {
    *("accept", "authorization", "b3", "baggage", "connection", "cookie", "date", "expect", "forwarded", "from"),
    *("host", "origin", "pragma", "referer", "te", "traceparent", "tracestate", "trailer", "upgrade", "via", "warning"),
}


@dataclass(frozen=True, kw_only=True)
class GenerateRequest:
    """What the caller wants.

    `sampling` is as the caller wrote it, not yet checked; `lora_name` is the adapter's, None for none; requests with a
    lower `priority` go first; `received_seconds` is this machine's monotonic clock when the ensemble took the request,
    None when called directly.
    """

    text: str
    sampling: Mapping[str, object]
    lora_name: str | None
    priority: int
    stream: bool
    echo: bool
    optional_outputs: frozenset[str]
    received_seconds: float | None

    @property
    def is_in_ensemble(self) -> bool:
        """Whether the request came through the ensemble, not to this model directly."""
        return self.received_seconds is not None


def parse_request(
    tensors: Mapping[str, np.ndarray], parameters: str, *, received_seconds: float | None = None
) -> GenerateRequest:
    """Read `tensors` (by input name) and, where no `sampling_parameters` came, the request's own JSON `parameters`.

    Raises InvalidArgument.
    """
    stream = flag(tensors, "stream", default=False)
    exclude_input = flag(tensors, "exclude_input_in_output", default=stream)
    if stream and not exclude_input:
        raise InvalidArgument(
            "exclude_input_in_output is false, which streaming cannot do: set it to true or leave it out"
        )
    sampling = _sampling(tensors, parameters)
    lora_name = sampling.get(PARAMETER)
    if lora_name is not None and not isinstance(lora_name, str):
        raise InvalidArgument(f"sampling_parameters: {PARAMETER} is {lora_name!r}, expected the name of an adapter")
    return GenerateRequest(
        text=text(tensors, "text_input"),
        sampling={name: value for name, value in sampling.items() if name not in (PARAMETER, PRIORITY)},
        lora_name=lora_name,
        priority=as_priority(sampling.get(PRIORITY)),
        stream=stream,
        echo=not exclude_input,
        optional_outputs=frozenset(
            output for name, output in RETURN_FLAGS.items() if flag(tensors, name, default=False)
        ),
        received_seconds=received_seconds,
    )


def _sampling(tensors: Mapping[str, np.ndarray], parameters: str) -> Mapping[str, object]:
    own = {name: value for name, value in json.loads(parameters or "{}").items() if not _is_tritons(name, value)}
    for name in own:
        if name not in _PARAMETERS:
            raise InvalidArgument(
                f"the request has an unknown parameter {name!r}; supported are {', '.join(_PARAMETERS)}"
            )
    if "sampling_parameters" not in tensors:
        return own
    if own:
        raise InvalidArgument(
            f"the request has the parameter {min(own)!r} beside the input sampling_parameters, which alone is read: "
            "write it there"
        )
    content = text(tensors, "sampling_parameters")
    if len(content) > MAX_PARAMETERS_CHARACTERS:
        raise InvalidArgument(
            f"sampling_parameters has {len(content)} characters, at most {MAX_PARAMETERS_CHARACTERS} are read"
        )
    sampling = _parse_json(content or "{}")
    if not isinstance(sampling, dict):
        raise InvalidArgument(
            f"sampling_parameters is a JSON {type(sampling).__name__}, expected an object: {content[:200]!r}"
        )
    return sampling


def _is_tritons(name: str, value: object) -> bool:
    is_header = isinstance(value, str) and ("-" in name or name.lower() in _HEADERS)
    return is_header or name in _TRITONS or name.startswith("triton_")


def _parse_json(text: str) -> object:
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as exc:
        raise InvalidArgument(f"sampling_parameters holds half a surrogate pair, which is no text: {exc}") from exc
    except ValueError as exc:
        raise InvalidArgument(f"sampling_parameters is not JSON ({exc}): {text[:200]!r}") from exc
    except RecursionError as exc:
        raise InvalidArgument(f"sampling_parameters is nested too deeply: {text[:200]!r}") from exc
    return value
