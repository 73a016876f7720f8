"""The engine's statistics and what became of each request, on Triton's metrics endpoint.

Names and boundaries are vLLM's own where it has them.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from itertools import product

from vllm.config import VllmConfig
from vllm.v1.engine import FinishReason
from vllm.v1.metrics.buckets import BucketFamilyKey, histogram_buckets
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats, MultiModalCacheStats, SchedulerStats

from . import triton
from .errors import KINDS, RequestError
from .intake import FAILED, FAILED_LABELS, FAILED_TEXT
from .request_log import DROPPED, DROPPED_TEXT

COUNTERS = {
    "vllm:prompt_tokens_total": "Prompt positions of the requests that reached their first token",
    "vllm:generation_tokens_total": "Tokens generated",
    "vllm:prefix_cache_queries_total": "Prompt positions looked up in the prefix cache",
    "vllm:prefix_cache_hits_total": "Prompt positions found in the prefix cache",
    "video_llava:engine_steps_total": "Steps of the engine, each for all requests in its batch",
    "vllm:num_preemptions_total": "Times a running request was preempted because the KV cache ran out",
    DROPPED: DROPPED_TEXT,
}
ENGINE_UP = "video_llava:engine_up"
RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
KV_CACHE_USAGE = "vllm:kv_cache_usage_perc"
GAUGES = {
    RUNNING: "Requests in the engine's current batch",
    WAITING: "Requests waiting for a place in the batch",
    KV_CACHE_USAGE: "Share of the KV cache in use, 1 is all of it",
    ENGINE_UP: "1 while the engine lives, 0 once it is dead, which only a restart of the server changes",
}
LORA_REQUESTS = "video_llava:lora_requests_total"
LORA_TOKENS = "video_llava:lora_generation_tokens_total"
LORA_COUNTERS = {
    LORA_REQUESTS: "Requests to an adapter that reached the engine",
    LORA_TOKENS: "Tokens of an adapter's answers",
}
LORA_RUNNING = "video_llava:lora_requests_running"
LORA_WAITING = "video_llava:lora_requests_waiting"
LORA_GAUGES = {
    LORA_RUNNING: "An adapter's requests in the engine's current batch",
    LORA_WAITING: "An adapter's requests waiting for a place in the batch",
}
TIME_TO_FIRST_TOKEN = "vllm:time_to_first_token_seconds"
ENCODE = "video_llava:encode_seconds"
# Other requests end with an error of their own, and their times were never taken.
_ANSWERED = (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)
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

# What one publishing tells Triton at most: responses that are to be sent wait for it.
_MAX_AT_ONCE = 200


class EngineMetrics(StatLoggerBase):
    """Collects figures (on the engine's event loop, and wherever a request fails) until `publish()` (on another
    thread) tells Triton."""

    def __init__(self, args: Mapping[str, str], lora_names: Collection[str] = ()) -> None:
        self._lora_names = lora_names
        self._metrics = _declare(args, lora_names)
        self.forget()

    def forget(self) -> None:
        """Begin to count, before anything is published."""
        of_loras = [*product(LORA_COUNTERS, self._lora_names)], [*product(LORA_GAUGES, self._lora_names)]
        self._totals: dict[tuple[str, ...], int] = dict.fromkeys([*zip(COUNTERS), *of_loras[0]], 0)
        self._levels: dict[tuple[str, ...], float] = dict.fromkeys([*zip(GAUGES), *of_loras[1]], 0.0)
        self._published: dict[tuple[str, ...], float] = dict.fromkeys([*self._totals, *self._levels], 0)
        self._events: deque[tuple[str, float | tuple[str, ...]]] = deque()

    def factory(self, _vllm_config: VllmConfig, _engine_index: int) -> "EngineMetrics":
        """What AsyncLLM calls to make its logger."""
        return self

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: MultiModalCacheStats | None = None,  # noqa: ARG002 (vLLM's signature)
        engine_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Take the figures of one engine step."""
        if scheduler_stats is not None:
            self._totals["video_llava:engine_steps_total",] += 1
            self._levels[RUNNING,] = scheduler_stats.num_running_reqs
            self._levels[WAITING,] = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self._levels[KV_CACHE_USAGE,] = scheduler_stats.kv_cache_usage
            self._totals["vllm:prefix_cache_queries_total",] += scheduler_stats.prefix_cache_stats.queries
            self._totals["vllm:prefix_cache_hits_total",] += scheduler_stats.prefix_cache_stats.hits
            for name in self._lora_names:
                self._levels[LORA_RUNNING, name] = scheduler_stats.running_lora_adapters.get(name, 0)
                self._levels[LORA_WAITING, name] = scheduler_stats.waiting_lora_adapters.get(name, 0)
        if iteration_stats is not None:
            self._totals["vllm:prompt_tokens_total",] += iteration_stats.num_prompt_tokens
            self._totals["vllm:generation_tokens_total",] += iteration_stats.num_generation_tokens
            self._totals["vllm:num_preemptions_total",] += iteration_stats.num_preempted_reqs
            # A request that ends without a token is here too, with the time until its end.
            finished = iteration_stats.finished_requests
            no_token = {stats.e2e_latency for stats in finished if not stats.num_generation_tokens}
            seconds_to_first = (s for s in iteration_stats.time_to_first_tokens_iter if s not in no_token)
            self._events += ((TIME_TO_FIRST_TOKEN, seconds) for seconds in seconds_to_first)
            for stats in finished:
                if stats.finish_reason in _ANSWERED:
                    self._events += _finished(stats)

    def level(self, name: str) -> float:
        """Return the gauge `name` after the engine's last step. Any thread may ask."""
        return self._levels[name,]

    def encoded(self, seconds: float) -> None:
        """A request has reached the engine, so long after the ensemble took it."""
        self._events.append((ENCODE, seconds))

    def began(self, lora_name: str) -> None:
        """A request to an adapter goes to the engine."""
        self._events.append((LORA_REQUESTS, (lora_name,)))

    def generated(self, lora_name: str, num_tokens: int) -> None:
        """So many tokens of an adapter's answer are sent."""
        self._totals[LORA_TOKENS, lora_name] += num_tokens

    def failed(self, error: RequestError) -> None:
        """A request ends with an error."""
        self._events.append((FAILED, (error.code, error.reason)))

    def log_engine_initialized(self) -> None:
        """Log nothing: Triton logs the model's start."""

    def close(self) -> None:
        """Let go of Triton's metrics."""
        self._metrics.close()

    def publish(self, *, is_engine_up: bool = True, num_log_lines_dropped: int = 0) -> None:
        """Bring Triton's metrics up to date; events beyond a bound wait for the next time."""
        self._totals[DROPPED,] = num_log_lines_dropped
        self._levels[ENGINE_UP,] = float(is_engine_up)
        for key, total in self._totals.items():
            if new := total - self._published[key]:
                self._metrics.increment(*key, by=new)
                self._published[key] += new
        for key, level in self._levels.items():
            if level != self._published[key]:
                self._metrics.set(*key, level=level)
                self._published[key] = level
        for _ in range(min(len(self._events), _MAX_AT_ONCE)):
            name, value = self._events.popleft()
            if isinstance(value, tuple):
                self._metrics.increment(name, *value)
            else:
                self._metrics.observe(name, value)


def _declare(args: Mapping[str, str], lora_names: Collection[str]) -> triton.Metrics:
    metrics = triton.Metrics(args)
    for name, text in COUNTERS.items():
        metrics.declare(name, text, triton.COUNTER)
    for name, text in GAUGES.items():
        metrics.declare(name, text, triton.GAUGE)
    for name, (buckets, text) in HISTOGRAMS.items():
        metrics.declare(name, text, triton.HISTOGRAM, buckets=histogram_buckets(buckets))
    metrics.declare(
        FINISHED,
        "Requests that the engine answered, by why it ended",
        triton.COUNTER,
        labels=["finished_reason"],
        values=[(str(reason),) for reason in _ANSWERED],
    )
    metrics.declare(FAILED, FAILED_TEXT, triton.COUNTER, labels=FAILED_LABELS, values=KINDS)
    if lora_names:
        for kind, families in ((triton.COUNTER, LORA_COUNTERS), (triton.GAUGE, LORA_GAUGES)):
            for name, text in families.items():
                metrics.declare(name, text, kind, labels=["lora_name"], values=[(each,) for each in lora_names])
    return metrics


def _finished(stats: FinishedRequestStats) -> Iterator[tuple[str, float | tuple[str, ...]]]:
    yield FINISHED, (str(stats.finish_reason),)
    yield "vllm:request_queue_time_seconds", stats.queued_time
    yield "vllm:request_prefill_time_seconds", stats.prefill_time
    yield "vllm:request_decode_time_seconds", stats.decode_time
    yield "vllm:e2e_request_latency_seconds", stats.e2e_latency
    if stats.num_generation_tokens > 1:
        yield "vllm:request_time_per_output_token_seconds", stats.mean_time_per_output_token
