"""The server's own counters, from its metrics endpoint, to hold this tool's figures against."""

from __future__ import annotations

import re
import time
import urllib.request

from video_llava_client import OptionError

NAMES = (
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
_LINE = re.compile(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def read_counters(url: str) -> dict[str, float]:
    """Return {`name{model}`: value} of those of `NAMES` that the server has, summed over other labels.

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
            model = re.search(r'model="([^"]*)"', labels)
            key = f"{name}{{{model.group(1)}}}" if model else name
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
