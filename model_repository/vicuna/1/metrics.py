"""The engine's statistics, under vLLM's own names where it has one, on Triton's metrics endpoint."""

from typing import Any

import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]
from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, MultiModalCacheStats, SchedulerStats

from .request_metrics import RequestMetrics

COUNTERS = {
    "vllm:prompt_tokens_total": "Prompt positions of the requests that reached their first token",
    "vllm:generation_tokens_total": "Tokens generated",
    "vllm:prefix_cache_queries_total": "Prompt positions looked up in the prefix cache",
    "vllm:prefix_cache_hits_total": "Prompt positions found in the prefix cache",
    "video_llava:engine_steps_total": "Steps of the engine, each for all requests in its batch",
    "vllm:num_preemptions_total": "Times a running request was put back to waiting for want of KV cache",
}
GAUGES = {
    "vllm:num_requests_running": "Requests in the engine's current batch",
    "vllm:num_requests_waiting": "Requests waiting for a place in the batch",
    "vllm:kv_cache_usage_perc": "Share of the KV cache in use, 1 is all of it",
}


class EngineMetrics(StatLoggerBase):
    """Adds up what the engine reports each step (on its event loop) until `publish()` (on another thread) tells
    Triton, since every call to a Triton metric is a round trip between processes."""

    def __init__(self, labels: dict[str, str]) -> None:
        self._totals = dict.fromkeys(COUNTERS, 0)
        self._levels = dict.fromkeys(GAUGES, 0.0)
        self._published: dict[str, float] = dict.fromkeys([*COUNTERS, *GAUGES], 0)
        self._families: list[Any] = []
        self._counters = self._make(COUNTERS, pb_utils.MetricFamily.COUNTER, labels)
        self._gauges = self._make(GAUGES, pb_utils.MetricFamily.GAUGE, labels)
        self.requests = RequestMetrics(labels)

    def _make(self, names: dict[str, str], kind: object, labels: dict[str, str]) -> dict[str, Any]:
        families = {name: pb_utils.MetricFamily(name=name, description=text, kind=kind) for name, text in names.items()}
        self._families += families.values()  # a metric dies with its family
        return {name: family.Metric(labels=labels) for name, family in families.items()}

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
            self._totals["video_llava:engine_steps_total"] += 1
            self._levels["vllm:num_requests_running"] = scheduler_stats.num_running_reqs
            self._levels["vllm:num_requests_waiting"] = (
                scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            )
            self._levels["vllm:kv_cache_usage_perc"] = scheduler_stats.kv_cache_usage
            self._totals["vllm:prefix_cache_queries_total"] += scheduler_stats.prefix_cache_stats.queries
            self._totals["vllm:prefix_cache_hits_total"] += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            self._totals["vllm:prompt_tokens_total"] += iteration_stats.num_prompt_tokens
            self._totals["vllm:generation_tokens_total"] += iteration_stats.num_generation_tokens
            self._totals["vllm:num_preemptions_total"] += iteration_stats.num_preempted_reqs
            self.requests.record(iteration_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say: Triton logs the model's start."""

    def close(self) -> None:
        """Let go of Triton's metrics, which it must see while the model still lives."""
        self._counters.clear()
        self._gauges.clear()
        self._families.clear()
        self.requests.close()

    def publish(self) -> None:
        """Bring Triton's metrics up to date."""
        for name, metric in self._counters.items():
            if new := self._totals[name] - self._published[name]:
                metric.increment(new)
                self._published[name] += new
        for name, metric in self._gauges.items():
            if (level := self._levels[name]) != self._published[name]:
                metric.set(level)
                self._published[name] = level
        self.requests.publish()
