"""What the fake server does with a request: it answers, or fails as servers do."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import grpc

from ..delta import ServerLoad
from ..server import ModelLimits
from .protocol import FakeRequest, answer_message, error_message, num_positions


@dataclass(frozen=True)
class Reply:
    """Answers with `text`, one token for each word, at most `max_tokens`.

    Attributes:
        text: The whole answer.
        seconds_per_token: For each token, the first too.
        num_input_tokens: Tokens of the prompt; None: its words, and the tokens of its media.
        num_cached_tokens: How many of those were in the prefix cache.
        server_load: What a request that asks for it gets; None: an idle server's.
    """

    text: str = "This is a fake answer."
    seconds_per_token: float = 0.0
    num_input_tokens: int | None = None
    num_cached_tokens: int = 0
    server_load: ServerLoad | None = None

    def messages(self, request: FakeRequest, context: Any, limits: ModelLimits) -> Iterator[Any]:
        """Yield the responses to `request`."""
        words = _words(self.text)
        num_input_tokens = self.num_input_tokens or num_positions(request, limits)
        longest = min(int(request.sampling.get("max_tokens", 16)), limits.max_model_len - num_input_tokens)
        reason = "length" if len(words) > longest else "stop"
        deltas = list(self._deltas(words[:longest], reason, num_input_tokens))
        if not request.stream:
            _pause(context, self.seconds_per_token * len(deltas))
            outputs = self._outputs("".join(words[:longest]), range(len(deltas)), reason, num_input_tokens)
            yield answer_message(outputs | self._load(request), final=True)
            return
        for number, outputs in enumerate(deltas, start=1):
            _pause(context, self.seconds_per_token)
            if request.tensors.get("return_logprobs"):
                outputs["logprobs"] = _logprobs(number - 1, words[number - 1], int(request.sampling["logprobs"]))
            is_last = number == len(deltas)
            yield answer_message(outputs | (self._load(request) if is_last else {}), final=is_last)

    def _load(self, request: FakeRequest) -> dict[str, str | int]:
        if not request.tensors.get("return_server_load"):
            return {}
        return {"server_load": json.dumps(vars(self.server_load or ServerLoad(0, 0, 0, 0.0)))}

    def _deltas(self, words: list[str], reason: str, num_input_tokens: int) -> Iterator[dict[str, str | int]]:
        for number, word in enumerate(words):
            is_last = number == len(words) - 1
            yield self._outputs(word, range(number, number + 1), reason if is_last else "None", num_input_tokens)

    def _outputs(self, text: str, token_ids: range, reason: str, num_input_tokens: int) -> dict[str, str | int]:
        outputs: dict[str, str | int] = {
            "text_output": text,
            "finish_reason": reason,
            "num_input_tokens": num_input_tokens,
            "num_output_tokens": len(token_ids),
            "token_ids": json.dumps(list(token_ids)),
            "num_cached_tokens": self.num_cached_tokens,
        }
        if reason != "None":
            num_tokens = token_ids.stop
            seconds = {"encode": 0.0, "queue": 0.0, "prefill": 0.0, "decode": self.seconds_per_token * num_tokens}
            outputs["stage_seconds"] = json.dumps(seconds)
        return outputs


def _logprobs(token_id: int, word: str, num_likely: int) -> str:
    """Return the log probabilities at one position: -1 for the token that was chosen, -2 for the second …"""
    others = {-rank: {"logprob": -rank, "rank": rank, "decoded_token": "?"} for rank in range(2, num_likely + 1)}
    return json.dumps([{token_id: {"logprob": -1.0, "rank": 1, "decoded_token": word}, **others}])


@dataclass(frozen=True)
class Refuse:
    """Ends the answer with an error of the model, `CODE: text`, after `after_tokens` tokens of `reply`."""

    text: str = "UNAVAILABLE: 64 requests wait already: try later"
    after_tokens: int = 0
    reply: Reply = Reply()


@dataclass(frozen=True)
class Abort:
    """Ends the call with a status of gRPC, as a proxy or a dying server does, after `after_tokens` tokens."""

    code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE
    details: str = "Socket closed"
    after_tokens: int = 0
    reply: Reply = Reply()


@dataclass(frozen=True)
class BreakOff:
    """Ends the stream, without an error, before the answer is complete."""

    after_tokens: int = 0
    reply: Reply = Reply()


@dataclass(frozen=True)
class Hang:
    """Sends nothing after `after_tokens` tokens, until the client has gone."""

    after_tokens: int = 0
    reply: Reply = Reply()


Step = Reply | Refuse | Abort | BreakOff | Hang
Script = Callable[[FakeRequest], Step]


def respond(step: Step, request: FakeRequest, context: Any, limits: ModelLimits) -> Iterator[Any]:
    """Yield the messages with which `step` responds to `request`."""
    if isinstance(step, Reply):
        yield from step.messages(request, context, limits)
        return
    # A request without deltas gets no part of its answer.
    num_tokens = step.after_tokens if request.stream else 0
    yield from islice(step.reply.messages(request, context, limits), num_tokens)
    if isinstance(step, Refuse):
        yield error_message(step.text)
    elif isinstance(step, Abort):
        context.abort(step.code, step.details)
    elif isinstance(step, Hang):
        while context.is_active():
            time.sleep(0.005)


def in_turn(steps: tuple[Step, ...]) -> Script:
    """Return a script with one step for each request; the last is repeated."""
    remaining = list(steps) or [Reply()]
    return lambda _request: remaining.pop(0) if len(remaining) > 1 else remaining[0]


def _words(text: str) -> list[str]:
    # The model continues after `ASSISTANT:`, so each word has a leading space.
    return re.findall(r"\s*\S+", f" {text.strip()}") or [""]


def _pause(context: Any, seconds: float) -> None:
    until = time.monotonic() + seconds
    while context.is_active() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.01))
