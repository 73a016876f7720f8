"""The trace that a request is part of: Triton's, or the caller's."""

import json
from collections.abc import Mapping
from typing import Any

_HEADERS = ("traceparent", "tracestate")
# What Trace Context asks everybody to pass on.
_MAX_CHARACTERS = 512


def trace_headers(request: Any) -> Mapping[str, str]:
    """Return the headers of W3C's Trace Context for the engine's span, none where there is no trace.

    Where Triton traces (--trace-config mode=opentelemetry) the parent is its span of this model; else the caller's,
    if Triton forwards the headers (--grpc-header-forward-pattern).
    """
    context = json.loads(request.trace().get_context() or request.parameters() or "{}")
    return {name: context[name] for name in _HEADERS if _is_header(context.get(name))}


def _is_header(value: object) -> bool:
    # A caller can set parameters of these names, and anything but plain text would end the engine.
    return isinstance(value, str) and len(value) <= _MAX_CHARACTERS and value.isascii() and value.isprintable()
