"""What the models say to Triton: responses, errors, metrics. The only module that knows how."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

from .errors import RequestError

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
COUNTER, GAUGE, HISTOGRAM = "COUNTER", "GAUGE", "HISTOGRAM"


def response(content: Mapping[str, np.ndarray] | RequestError) -> Any:
    """Make a response of output tensors by name, or of an error, whose code callers see if they do not stream."""
    if isinstance(content, RequestError):
        code = getattr(pb_utils.TritonError, content.triton_code)
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(content), code))
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, array) for name, array in content.items()])


def input_tensors(request: Any) -> dict[str, np.ndarray]:
    """Return a request's inputs by name."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def request_id(request: Any) -> str:
    """Return the id that the caller gave; "" where it is not UTF-8, which Triton's HTTP lets pass."""
    try:
        return request.request_id()
    except UnicodeDecodeError:
        return ""


def say_loaded(args: Mapping[str, str]) -> None:
    """Write into the server's log that the model has loaded. If Triton does not notice, it hangs, and video-llava-serve
    starts it again (video_llava_serve/_ready.py)."""
    print(f"[{args['model_name']}] loaded", file=sys.stderr, flush=True)  # noqa: T201


def log_error(text: str) -> None:
    """Write a line into Triton's log."""
    pb_utils.Logger.log_error(text)


class Metrics:
    """Metrics of one model on Triton's metrics endpoint. Each call of a setter is a round trip between processes."""

    def __init__(self, args: Mapping[str, str]) -> None:
        self._labels = {"model": args["model_name"], "version": args["model_version"]}
        self._families: list[Any] = []
        self._metrics: dict[tuple[str, ...], Any] = {}

    def declare(
        self,
        name: str,
        text: str,
        kind: str,
        *,
        labels: Sequence[str] = (),
        values: Iterable[tuple[str, ...]] = ((),),
        **options: Any,
    ) -> None:
        """Make a metric, or one for each of the `values` of further `labels`; `options` are Triton's, as `buckets`."""
        # Looked up here: Triton defines MetricFamily only for the process that serves.
        family = pb_utils.MetricFamily(name=name, description=text, kind=getattr(pb_utils.MetricFamily, kind))
        self._families.append(family)  # a metric dies with its family
        for each in values:
            all_labels = self._labels | dict(zip(labels, each, strict=True))
            self._metrics[name, *each] = family.Metric(labels=all_labels, **options)

    def increment(self, name: str, *values: str, by: float = 1) -> None:
        """Add to a counter."""
        self._metrics[name, *values].increment(by)

    def set(self, name: str, *values: str, level: float) -> None:
        """Set a gauge."""
        self._metrics[name, *values].set(level)

    def observe(self, name: str, amount: float) -> None:
        """Add an observation to a histogram."""
        self._metrics[name,].observe(amount)

    def close(self) -> None:
        """Let go of all metrics, which Triton must see while the model still lives."""
        self._metrics.clear()
        self._families.clear()
