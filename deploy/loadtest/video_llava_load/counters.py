"""The server's own counters, from its metrics endpoint, to compare this tool's figures with."""

from __future__ import annotations

import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from video_llava_client import OptionError

from .requests import ANSWERED, CANCELLED, FAILED, UNFINISHED, Record

_NAMES = re.compile(
    "(video_llava|vllm):.*_total|nv_inference_(request_success|request_failure|exec_count)|nv_cache_num_.*"
)
# The engine's counters reach Triton's endpoint a little after the answers.
_PUBLISHED_SECONDS = 1.0
# The labels that make a key.
_LABELS = ("model", "code", "finished_reason")
_LINE = re.compile(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def read_counters(url: str) -> dict[str, float]:
    """Return {"name{model,code}": value} of the counters of requests, tokens and caches.

    Raises:
        OptionError: The address does not answer, or is not valid.
    """
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            text = response.read().decode()
    except (OSError, ValueError) as exc:
        message = f"--metrics-url {url!r} cannot be read ({exc}): give Triton's, such as http://localhost:8002/metrics"
        raise OptionError(message) from exc
    values: dict[str, float] = {}
    for name, labels, value in _LINE.findall(text):
        if _NAMES.fullmatch(name):
            given = [found[1] for label in _LABELS if (found := re.search(rf'\b{label}="([^"]*)"', labels))]
            key = f"{name}{{{','.join(given)}}}" if given else name
            values[key] = values.get(key, 0.0) + float(value)
    return values


def read_growth(url: str, before: Mapping[str, float]) -> dict[str, float]:
    """Return the counters that changed since `before`, and by how much; after a restart of the server, from 0."""
    time.sleep(_PUBLISHED_SECONDS)
    after = read_counters(url)
    growth = {name: value - before.get(name, 0.0) for name, value in after.items()}
    return {name: after[name] if value < 0 else value for name, value in growth.items() if value}


def compare(records: Iterable[Record], growth: Mapping[str, float]) -> list[dict[str, Any]]:
    """Return rows of {what, here, server} for the whole run, warm-ups included; 0 where the server has no counter."""
    records = list(records)
    outcomes = Counter(record.outcome for record in records)

    def grown(name: str, code: str = "") -> float:
        return sum(value for key, value in growth.items() if key.startswith(name) and code in key)

    failed, cancelled = (grown("video_llava:requests_failed_total", code) for code in ("", "CANCELLED"))
    rows = (
        ("requests", len(records), grown("video_llava:requests_total")),
        ("answered", outcomes[ANSWERED], grown("nv_inference_request_success{video_llava}")),
        ("left by their callers", outcomes[CANCELLED] + outcomes[UNFINISHED], cancelled),
        ("failed", outcomes[FAILED], failed - cancelled),
        ("output tokens", sum(r.num_output_tokens for r in records), grown("vllm:generation_tokens_total")),
        ("input tokens", sum(r.num_input_tokens for r in records), grown("vllm:prompt_tokens_total")),
        ("of those cached", sum(r.num_cached_tokens for r in records), grown("vllm:prefix_cache_hits_total")),
    )
    return [{"what": what, "here": here, "server": server} for what, here, server in rows]
