"""The server's own counters, from its metrics endpoint, to hold this tool's figures against."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from video_llava_client import OptionError

from .requests import ANSWERED, CANCELLED, FAILED, UNFINISHED, Record

NAMES = (
    "video_llava:requests_total",
    "video_llava:requests_failed_total",
    "vllm:request_success_total",
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_exec_count",
    "nv_cache_num_hits_per_model",
    "nv_cache_num_misses_per_model",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:num_preemptions_total",
)
# The engine's counters reach Triton's endpoint a little after the answers.
_PUBLISHED_SECONDS = 1.0
# What tells the series of one counter apart, besides the model.
_LABELS = ("model", "code", "finished_reason")
_LINE = re.compile(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def read_counters(url: str) -> dict[str, float]:
    """Return {`name{model}`: value} of those of `NAMES` that the server has; a code or reason stands after the model.

    Raises:
        OptionError: The address does not answer, or with something else.
    """
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
    except (OSError, ValueError) as exc:
        message = f"--metrics-url {url!r} cannot be read ({exc}): give Triton's, such as http://localhost:8002/metrics"
        raise OptionError(message) from exc
    values: dict[str, float] = {}
    for name, labels, value in _LINE.findall(text):
        if name in NAMES:
            told = [found[1] for label in _LABELS if (found := re.search(rf'\b{label}="([^"]*)"', labels))]
            key = f"{name}{{{','.join(told)}}}" if told else name
            values[key] = values.get(key, 0.0) + float(value)
    return values


class Counters:
    """How far the server's counters grow in a run; one for no server says nothing.

    Args:
        url: Of Triton's metrics, or None. It is read once already here, to fail before the run and not after.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._before: dict[str, float] = {}
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        if self._url is not None:
            self._before = read_counters(self._url)

    def growth(self) -> dict[str, float] | None:
        """Return what has changed, and by how much; a server that was started anew meanwhile counts from 0."""
        if self._url is None:
            return None
        time.sleep(_PUBLISHED_SECONDS)
        after = read_counters(self._url)
        growth = {name: value - self._before.get(name, 0.0) for name, value in after.items()}
        return {name: after[name] if value < 0 else value for name, value in growth.items() if value}


@dataclass(frozen=True)
class Compared:
    """One figure of a whole run, warm-ups included: as this tool saw it, and as the server counted it."""

    what: str
    here: int
    server: float


def compare(records: Iterable[Record], growth: Mapping[str, float]) -> list[Compared]:
    """Return the figures that both sides have; those that the server does not tell are 0 there."""
    records = list(records)
    outcomes = Counter(record.outcome for record in records)

    def grown(name: str) -> float:
        return sum(value for key, value in growth.items() if key.startswith(name))

    failed = {key: value for key, value in growth.items() if key.startswith("video_llava:requests_failed_total")}
    left = sum(value for key, value in failed.items() if "CANCELLED" in key)
    return [
        Compared("requests", len(records), grown("video_llava:requests_total")),
        Compared("answered", outcomes[ANSWERED], grown("nv_inference_request_success{video_llava}")),
        Compared("left by their callers", outcomes[CANCELLED] + outcomes[UNFINISHED], left),
        Compared("failed", outcomes[FAILED], sum(failed.values()) - left),
        Compared("output tokens", sum(r.num_output_tokens for r in records), grown("vllm:generation_tokens_total")),
        Compared("input tokens", sum(r.num_input_tokens for r in records), grown("vllm:prompt_tokens_total")),
        Compared("of those cached", sum(r.num_cached_tokens for r in records), grown("vllm:prefix_cache_hits_total")),
    ]
