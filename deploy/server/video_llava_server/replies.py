"""What the engine gave becomes the output tensors that the caller asked for."""

import json
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from vllm.outputs import CompletionOutput, RequestOutput

from .request import GenerateRequest
from .tensors import strings


class ServerLoad(NamedTuple):
    """How busy the server is, as the output `server_load` says it in JSON."""

    num_encoding: int
    """requests on their way through the encoders"""
    num_waiting: int
    """those that wait for a place in the engine's batch"""
    num_running: int
    """those in the batch"""
    kv_cache_usage: float
    """share of the KV cache in use, 1 is all of it"""


def reply_tensors(
    request: GenerateRequest,
    output: RequestOutput,
    *,
    num_input_tokens: int,
    num_sequences: int,
    encode_seconds: float | None,
    server_load: Callable[[], ServerLoad],
) -> dict[str, np.ndarray]:
    """Make one response's tensors by name.

    When streaming, texts, token ids and counts are what came since the last response. With several sequences a
    response may carry news of some only: the others' text is empty.
    """
    news: list[CompletionOutput | None] = [None] * num_sequences
    for completion in output.outputs:
        news[completion.index] = completion
    prefix = request.text if request.echo else ""
    tensors = {"text_output": strings([prefix + new.text if new else "" for new in news])}
    for name in request.optional_outputs:
        if name in _OF_SEQUENCES:
            tensors[name] = _OF_SEQUENCES[name](news)
    if "num_input_tokens" in request.optional_outputs:
        tensors["num_input_tokens"] = np.array([num_input_tokens], np.uint32)
    if "num_cached_tokens" in request.optional_outputs:
        tensors["num_cached_tokens"] = np.array([output.num_cached_tokens or 0], np.uint32)
    if "stage_seconds" in request.optional_outputs and output.finished:
        tensors["stage_seconds"] = strings([json.dumps(stage_seconds(output, encode_seconds))])
    if "server_load" in request.optional_outputs and output.finished:
        tensors["server_load"] = strings([json.dumps(server_load()._asdict())])
    return tensors


def stage_seconds(output: RequestOutput, encode_seconds: float | None) -> dict[str, float | None]:
    """Say how long a finished request stayed in each stage, in seconds.

    `encode` runs from the ensemble's taking the request to its reaching the engine; None if called without ensemble.
    What the engine did not record is None.
    """
    times = output.metrics
    if times is None:  # model.json set disable_log_stats
        return {"encode": encode_seconds}
    return {
        "encode": encode_seconds,
        "queue": _between(times.queued_ts, times.scheduled_ts),
        "prefill": _between(times.scheduled_ts, times.first_token_ts),
        "decode": _between(times.first_token_ts, times.last_token_ts),
    }


def _between(start: float, end: float) -> float | None:
    """Return the seconds between two times; vLLM leaves 0 where there was none."""
    return end - start if start and end else None


def _cumulative_logprob(new: CompletionOutput | None) -> float:
    return 0.0 if new is None or new.cumulative_logprob is None else new.cumulative_logprob


def _logprobs(new: CompletionOutput | None) -> list[dict[int, dict[str, object]]] | None:
    if new is None or new.logprobs is None:
        return None
    return [
        {
            token_id: {"logprob": entry.logprob, "rank": entry.rank, "decoded_token": entry.decoded_token}
            for token_id, entry in position.items()
        }
        for position in new.logprobs
    ]


_OF_SEQUENCES: dict[str, Callable[[list[CompletionOutput | None]], np.ndarray]] = {
    "finish_reason": lambda news: strings([str(new.finish_reason) if new else "None" for new in news]),
    "cumulative_logprob": lambda news: np.array([_cumulative_logprob(new) for new in news], np.float32),
    "logprobs": lambda news: strings([json.dumps(_logprobs(new)) for new in news]),
    "num_output_tokens": lambda news: np.array([len(new.token_ids) if new else 0 for new in news], np.uint32),
    "token_ids": lambda news: strings([json.dumps(list(new.token_ids) if new else []) for new in news]),
}
"""Optional outputs with one element for each sequence."""
