"""What became of each request and how long its stages took, on Triton's metrics endpoint.

Histograms have vLLM's own names and boundaries. `metrics.py` has what the engine says of itself.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]
from vllm.v1.engine import FinishReason
from vllm.v1.metrics.buckets import BucketFamilyKey, histogram_buckets
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats

from .errors import RequestError

TIME_TO_FIRST_TOKEN = "vllm:time_to_first_token_seconds"
ENCODE = "video_llava:encode_seconds"
HISTOGRAMS: dict[str, tuple[BucketFamilyKey, str]] = {
    TIME_TO_FIRST_TOKEN: ("time_to_first_token", "From the engine's taking the request to its first token"),
    ENCODE: ("time_to_first_token", "From the ensemble's taking the request to its reaching the engine"),
    "vllm:request_queue_time_seconds": ("request_latency", "Waiting for a place in the batch"),
    "vllm:request_prefill_time_seconds": ("request_latency", "From the place in the batch to the first token"),
    "vllm:request_decode_time_seconds": ("request_latency", "From the first token to the last"),
    "vllm:request_time_per_output_token_seconds": (
        "inter_token_latency",
        "A request's mean inter-token latency. Not a value for each token, which would be a round trip to Triton each",
    ),
    "vllm:e2e_request_latency_seconds": ("request_latency", "From the engine's taking the request to its last token"),
}
FINISHED = "vllm:request_success_total"
FAILED = "video_llava:requests_failed_total"
COUNTERS = {
    FINISHED: ("finished_reason", [str(reason) for reason in FinishReason], "Requests that the engine ended, by why"),
    FAILED: (
        "code",
        [kind.code for kind in RequestError.__subclasses__()],
        "Requests refused or ended without a (whole) answer, by gRPC's status code",
    ),
}

# What one publishing tells Triton at most: it holds up the responses that are to be sent meanwhile.
_MAX_AT_ONCE = 200


class RequestMetrics:
    """Takes notes (on the engine's event loop, and wherever a request fails) until `publish()` (on another thread)
    tells Triton, since every call to a Triton metric is a round trip between processes."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._notes: deque[tuple[str, float | str]] = deque()
        self._families: list[Any] = []
        self._histograms = {
            name: self._family(name, text, pb_utils.MetricFamily.HISTOGRAM).Metric(
                labels=labels, buckets=histogram_buckets(buckets)
            )
            for name, (buckets, text) in HISTOGRAMS.items()
        }
        self._counters = {
            name: {value: family.Metric(labels=labels | {label: value}) for value in values}
            for name, (label, values, text) in COUNTERS.items()
            for family in [self._family(name, text, pb_utils.MetricFamily.COUNTER)]
        }

    def _family(self, name: str, text: str, kind: object) -> Any:
        family = pb_utils.MetricFamily(name=name, description=text, kind=kind)
        self._families.append(family)  # a metric dies with its family
        return family

    def record(self, iteration_stats: IterationStats) -> None:
        """Take the figures of one engine step."""
        self._notes += ((TIME_TO_FIRST_TOKEN, seconds) for seconds in iteration_stats.time_to_first_tokens_iter)
        for stats in iteration_stats.finished_requests:
            self._notes += _notes(stats)

    def encoded(self, seconds: float) -> None:
        """A request has reached the engine, so long after the ensemble took it."""
        self._notes.append((ENCODE, seconds))

    def failed(self, error: RequestError) -> None:
        """A request ends with an error."""
        self._notes.append((FAILED, error.code))

    def close(self) -> None:
        """Let go of Triton's metrics, which it must see while the model still lives."""
        self._histograms.clear()
        self._counters.clear()
        self._families.clear()

    def publish(self) -> None:
        """Tell Triton what was noted; what is too much for now waits for the next time."""
        for name, value in self._take():
            if isinstance(value, str):
                self._counters[name][value].increment(1)
            else:
                self._histograms[name].observe(value)

    def _take(self) -> Iterable[tuple[str, float | str]]:
        return [self._notes.popleft() for _ in range(min(len(self._notes), _MAX_AT_ONCE))]


def _notes(stats: FinishedRequestStats) -> Iterator[tuple[str, float | str]]:
    yield FINISHED, str(stats.finish_reason)
    yield "vllm:request_queue_time_seconds", stats.queued_time
    yield "vllm:request_prefill_time_seconds", stats.prefill_time
    yield "vllm:request_decode_time_seconds", stats.decode_time
    yield "vllm:e2e_request_latency_seconds", stats.e2e_latency
    if stats.num_generation_tokens > 1:
        yield "vllm:request_time_per_output_token_seconds", stats.mean_time_per_output_token
