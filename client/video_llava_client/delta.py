"""One response of the server while it generates an answer."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was at one position.

    Attributes:
        logprob: The natural logarithm of its probability.
        rank: Its place among all tokens there, from 1.
        decoded_token: Its text, which may be empty.
    """

    logprob: float
    rank: int
    decoded_token: str


Logprobs = tuple[Mapping[int, TokenLogprob], ...]
"""For each token of an answer: token ids with their log probabilities, the chosen one first."""


@dataclass(frozen=True)
class ServerLoad:
    """How busy the server is.

    Attributes:
        num_encoding: Requests on their way through the vision encoders.
        num_waiting: Requests that wait for a place in the engine's batch.
        num_running: Requests in the batch.
        kv_cache_usage: Share of the KV cache in use, 1 is all of it.
    """

    num_encoding: int
    num_waiting: int
    num_running: int
    kv_cache_usage: float

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the load in the output `server_load`. What a later release says beside it is left out."""
        values = json.loads(text)
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Delta:
    """The text and tokens that are new in one response.

    Attributes:
        text: The new text, which may be empty. The first has no leading space.
        token_ids: The new tokens.
        num_output_tokens: How many they are.
        finish_reason: None until the last; then "stop" (complete) or "length" (`max_tokens` was reached).
        num_input_tokens: Tokens of the prompt, media included.
        num_cached_tokens: How many of those were in the engine's prefix cache.
        server_seconds: In the last only: seconds in the server's stages encode, queue, prefill and decode.
        server_load: In the last only: how busy the server is, if that was asked for.
        logprobs: For each new token, if they were asked for.
    """

    text: str
    token_ids: tuple[int, ...]
    num_output_tokens: int
    finish_reason: str | None
    num_input_tokens: int
    num_cached_tokens: int
    server_seconds: Mapping[str, float] | None = field(default=None, repr=False)
    server_load: ServerLoad | None = field(default=None, repr=False)
    logprobs: Logprobs = field(default=(), repr=False)

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Sequence[Any]]) -> Self:
        """Return the delta in the output tensors of a response."""
        stage_seconds, logprobs = outputs.get("stage_seconds"), outputs.get("logprobs")
        load = outputs.get("server_load")
        reason = outputs["finish_reason"][0]
        return cls(
            text=outputs["text_output"][0],
            token_ids=tuple(map(int, json.loads(outputs["token_ids"][0]))),
            num_output_tokens=outputs["num_output_tokens"][0],
            finish_reason=None if reason == "None" else reason,
            num_input_tokens=outputs["num_input_tokens"][0],
            num_cached_tokens=outputs["num_cached_tokens"][0],
            server_seconds={k: float(v) for k, v in json.loads(stage_seconds[0]).items()} if stage_seconds else None,
            server_load=ServerLoad.from_json(load[0]) if load else None,
            logprobs=_read_logprobs(logprobs[0]) if logprobs else (),
        )


def _read_logprobs(text: str) -> Logprobs:
    # JSON null: no tokens are new.
    return tuple(
        {int(token): TokenLogprob(**entry) for token, entry in position.items()} for position in json.loads(text) or ()
    )
