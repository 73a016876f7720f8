"""What `/metrics` shows, in Prometheus' form."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PREFIX = "video_llava_gateway_"


class Metrics:
    """Counters of one gateway. `key` is the name of the caller's key, empty without keys."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._make(
            Counter, "requests", "Requests to /v1 that ended; 499: the caller left", "key", "status"
        )
        self.running = self._make(Gauge, "requests_in_flight", "Requests to /v1 that have not ended")
        self.first_token = self._make(
            Histogram, "time_to_first_token_seconds", "From the request to its first token", buckets=_SECONDS
        )
        self.inter_token = self._make(
            Histogram, "inter_token_latency_seconds", "Between two responses of the server", buckets=_SECONDS
        )
        self.decode_seconds = self._make(
            Histogram, "media_decode_seconds", "Decoding of one medium, its queue included", buckets=_SECONDS
        )
        self.prompt_tokens = self._make(Counter, "prompt_tokens", "Tokens of prompts", "key")
        self.cached_tokens = self._make(Counter, "cached_prompt_tokens", "Of these, those the engine had cached", "key")
        self.generated_tokens = self._make(Counter, "generated_tokens", "Tokens of answers", "key")
        self.cache_hits = self._make(Counter, "media_cache_hits", "Media that were decoded before")
        self.cache_misses = self._make(Counter, "media_cache_misses", "Media that had to be decoded")
        self.files = self._make(Gauge, "files", "Uploaded files that are kept")
        self.files_bytes = self._make(Gauge, "files_bytes", "Their bytes, as the quota counts them")
        self.connections = self._make(Gauge, "connections", "Open connections")

    def text(self) -> bytes:
        """Return what `/metrics` sends."""
        return generate_latest(self._registry)

    def _make(self, kind: Any, name: str, documentation: str, *labels: str, **options: Any) -> Any:
        return kind(_PREFIX + name, documentation, labels, registry=self._registry, **options)
