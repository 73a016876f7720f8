"""The answer as JSON, whole or in chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from video_llava_client import Answer, Delta, TokenLogprob

from .protocol import ChatRequest

# JSON has no -infinity; OpenAI's number for "very unlikely".
_LEAST_LOGPROB = -9999.0
_json = partial(json.dumps, ensure_ascii=False, separators=(",", ":"))


@dataclass
class _Choice:
    text: list[str] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None


class Completion:
    """One answer while it grows.

    Attributes:
        num_prompt_tokens: Tokens of the prompt, media included.
        num_cached_tokens: Of these, those that the engine had cached.
        num_generated_tokens: Of all choices.
    """

    def __init__(self, request: ChatRequest, *, completion_id: str, model: str) -> None:
        self.num_prompt_tokens = self.num_cached_tokens = self.num_generated_tokens = 0
        self._request = request
        self._options = request.stream_options or None
        self._base = {"id": completion_id, "created": int(time.time()), "model": model}
        head = _json({**self._base, "object": "chat.completion.chunk"})
        self._chunk_head = f'data: {head[:-1]},"choices":'
        self._choices = [_Choice() for _ in range(request.num_choices)]

    def add(self, index: int, delta: Delta) -> dict[str, Any]:
        """Add what is new in choice `index`; return it as its chunk has it, without "delta"."""
        choice = self._choices[index]
        self._note_prompt(delta)
        self.num_generated_tokens += delta.num_output_tokens
        choice.text.append(delta.text)
        choice.finish_reason = delta.finish_reason
        new: dict[str, Any] = {"finish_reason": delta.finish_reason}
        if self._request.logprobs:
            content = self._logprobs(delta)
            choice.logprobs += content
            new["logprobs"] = {"content": content}
        if self._request.return_token_ids:
            choice.token_ids += delta.token_ids
            new["token_ids"] = list(delta.token_ids)
        return new

    def first_chunk(self, delta: Delta) -> bytes:
        """Return the chunk of each choice that begins its message, before the first delta."""
        self._note_prompt(delta)
        first = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return b"".join(self._chunk([{"index": index, **first}]) for index in range(len(self._choices)))

    def chunk(self, index: int, delta: Delta) -> bytes:
        """Return the chunk for a delta; empty if nothing in it is for the caller."""
        new = self.add(index, delta)
        if not delta.text and len(new) == 1 and delta.finish_reason is None:
            return b""
        return self._chunk([{"index": index, "delta": {"content": delta.text}, "logprobs": None, **new}])

    def last_chunks(self, metrics: Mapping[str, Any] | None) -> bytes:
        """Return what ends the stream: usage, if it is wanted, and OpenAI's mark."""
        usage = b""
        if self._options and self._options.include_usage:
            more = {"usage": self.usage} | ({"metrics": metrics} if metrics else {})
            usage = f"{self._chunk_head}[],{_json(more)[1:]}\n\n".encode()
        return usage + b"data: [DONE]\n\n"

    def whole(self, metrics: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the answer that is not streamed."""
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._choices)]
        answer = {**self._base, "object": "chat.completion", "choices": choices, "usage": self.usage}
        return answer | ({"metrics": metrics} if metrics else {})

    @property
    def usage(self) -> dict[str, Any]:
        """Tokens, as OpenAI counts them: those of the prompt once, whatever `n`."""
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_generated_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_generated_tokens,
            "prompt_tokens_details": {"cached_tokens": self.num_cached_tokens},
        }

    def _note_prompt(self, delta: Delta) -> None:
        # The first request says how much of the prompt was cached; the others find it there.
        if not self.num_prompt_tokens:
            self.num_prompt_tokens, self.num_cached_tokens = delta.num_input_tokens, delta.num_cached_tokens

    def _chunk(self, choices: list[dict[str, Any]]) -> bytes:
        usage = ""
        if self._options and self._options.include_usage and self._options.continuous_usage_stats:
            usage = f',"usage":{_json(self.usage)}'
        return f"{self._chunk_head}{_json(choices)}{usage}}}\n\n".encode()

    def _whole_choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": "".join(choice.text), "refusal": None},
            "logprobs": {"content": choice.logprobs} if self._request.logprobs else None,
            "finish_reason": choice.finish_reason,
            **({"token_ids": choice.token_ids} if self._request.return_token_ids else {}),
        }

    def _logprobs(self, delta: Delta) -> list[dict[str, Any]]:
        num_top = self._request.top_logprobs or 0
        content = []
        for token_id, position in zip(delta.token_ids, delta.logprobs, strict=True):
            likely = sorted(position.items(), key=lambda item: item[1].rank)[:num_top]
            top = [self._logprob(*item) for item in likely if item[1].rank <= num_top]
            content.append({**self._logprob(token_id, position[token_id]), "top_logprobs": top})
        return content

    def _logprob(self, token_id: int, entry: TokenLogprob) -> dict[str, Any]:
        token = f"token_id:{token_id}" if self._request.return_tokens_as_token_ids else entry.decoded_token or ""
        logprob = max(entry.logprob, _LEAST_LOGPROB)
        return {"token": token, "logprob": logprob, "bytes": list((entry.decoded_token or "").encode())}


def timing(answers: Iterable[Answer], *, decode_seconds: float, first_token_seconds: float) -> dict[str, Any] | None:
    """Return `metrics`: vLLM's names, and the seconds of each stage; None for several answers, as in vLLM."""
    answer, *others = answers
    if others:
        return None
    stages = answer.stage_seconds
    num_intervals = max(1, answer.num_output_tokens - 1)
    return {
        "time_to_first_token_ms": 1000 * first_token_seconds,
        "generation_time_ms": 1000 * stages.generation,
        "queue_time_ms": 1000 * stages.queue,
        "mean_itl_ms": 1000 * stages.generation / num_intervals,
        "tokens_per_second": num_intervals / stages.generation if stages.generation else None,
        "stage_seconds": {**asdict(stages), "decode": decode_seconds},
    }
