"""What comes back: deltas while the model writes, an answer when it has finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from .media import ClipInfo


@dataclass(frozen=True)
class Delta:
    """One response of the server: what was written since the one before.

    Attributes:
        text: The new text, the first without the space it begins with; may be empty.
        token_ids: The new tokens.
        num_output_tokens: How many those are.
        finish_reason: None until the last; then "stop" (the answer is complete) or "length" (`max_tokens` was reached).
        num_input_tokens: Positions of the prompt, frames included.
        num_cached_tokens: How many of those the engine had in its prefix cache.
        server_seconds: On the last only: seconds in the server's stages encode, queue, prefill and decode.
    """

    text: str
    token_ids: tuple[int, ...]
    num_output_tokens: int
    finish_reason: str | None
    num_input_tokens: int
    num_cached_tokens: int
    server_seconds: Mapping[str, float] | None = field(default=None, repr=False)

    @classmethod
    def from_outputs(cls, outputs: Mapping[str, Sequence[Any]]) -> Self:
        """Return the delta in a response's output tensors.

        Raises:
            KeyError, ValueError, TypeError, IndexError: They are not what the model is agreed to send.
        """
        stage_seconds = outputs.get("stage_seconds")
        reason = outputs["finish_reason"][0]
        return cls(
            text=outputs["text_output"][0],
            token_ids=tuple(map(int, json.loads(outputs["token_ids"][0]))),
            num_output_tokens=outputs["num_output_tokens"][0],
            finish_reason=None if reason == "None" else reason,
            num_input_tokens=outputs["num_input_tokens"][0],
            num_cached_tokens=outputs["num_cached_tokens"][0],
            server_seconds={k: float(v) for k, v in json.loads(stage_seconds[0]).items()} if stage_seconds else None,
        )


@dataclass(frozen=True)
class StageSeconds:
    """Where the time of one request went, in seconds, in the order of the request's way.

    Attributes:
        decode: On the client: opening and decoding media; 0 for a ready `Clip`.
        preprocess: On the client: resizing and cropping.
        retries: On the client: failed attempts and the waits after them; 0 where the first was answered.
        transfer: What the server's stages leave of the time from sending the request to the end of its answer: the
            network both ways, and Triton's own work.
        encode: On the server: the vision towers; little where its response cache knew the frames.
        queue: On the server: waiting for a place in the engine's batch.
        prefill: On the server: reading the prompt.
        generation: On the server: writing the answer (the server's own name for it is "decode").
        first_token: On the client: from sending the request to the first text; None when there was none.
        total: On the client: from the call to the end of the answer, all of the above and the network.
    """

    decode: float
    preprocess: float
    retries: float
    transfer: float
    encode: float
    queue: float
    prefill: float
    generation: float
    first_token: float | None
    total: float


@dataclass(frozen=True)
class Reused:
    """What did not have to be done again for one request.

    (Whether the server's response cache knew the frames, Triton does not tell; `stage_seconds.encode` shows it.)

    Attributes:
        num_tokens: Positions of the prompt that the engine had in its prefix cache.
        num_clips: Videos that came as a `Clip`, decoded before.
    """

    num_tokens: int
    num_clips: int


@dataclass(frozen=True)
class Answer:
    """The model's whole answer.

    Attributes:
        text: The answer alone, without the prompt.
        finish_reason: "stop" (complete) or "length" (`max_tokens` was reached).
        num_input_tokens: Positions of the prompt, frames included (2056 for a video on the 7B model).
        num_output_tokens: Tokens of the answer.
        num_cached_tokens: Positions of the prompt that the engine had in its prefix cache.
        token_ids: The answer's tokens.
        stage_seconds: Where the time went.
        reused: What did not have to be done again.
        frames: For each video, which frames the model saw.
        request_id: The request's id, as the server's log has it.
        num_attempts: How often it was sent; more than 1 where the server could not be reached, or was full, at first.
    """

    text: str
    finish_reason: str
    num_input_tokens: int
    num_output_tokens: int
    num_cached_tokens: int
    token_ids: tuple[int, ...] = field(repr=False)
    stage_seconds: StageSeconds = field(repr=False)
    reused: Reused = field(repr=False)
    frames: tuple[ClipInfo, ...] = field(repr=False)
    request_id: str = field(repr=False)
    num_attempts: int = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ClientFacts:
    """What the client itself knows of a request; the names are those of `StageSeconds` and `Answer`.

    Attributes:
        answering_seconds: From sending the attempt that was answered to the end of the answer.
    """

    decode_seconds: float
    preprocess_seconds: float
    retries_seconds: float
    answering_seconds: float
    first_token_seconds: float | None
    total_seconds: float
    frames: tuple[ClipInfo, ...]
    num_reused_clips: int
    request_id: str
    num_attempts: int


def join(deltas: Sequence[Delta], client: ClientFacts) -> Answer:
    """Return the answer that all `deltas` of one request make.

    Raises:
        ValueError: The last delta is missing or lacks what makes it the last.
        KeyError: It lacks one of the server's stages.
    """
    last = deltas[-1] if deltas else None
    if last is None or last.finish_reason is None or last.server_seconds is None:
        raise ValueError("the last response lacks finish_reason or stage_seconds")
    return Answer(
        text="".join(delta.text for delta in deltas),
        finish_reason=last.finish_reason,
        num_input_tokens=last.num_input_tokens,
        num_output_tokens=sum(delta.num_output_tokens for delta in deltas),
        num_cached_tokens=last.num_cached_tokens,
        token_ids=tuple(token for delta in deltas for token in delta.token_ids),
        stage_seconds=_stage_seconds(last.server_seconds, client),
        reused=Reused(num_tokens=last.num_cached_tokens, num_clips=client.num_reused_clips),
        frames=client.frames,
        request_id=client.request_id,
        num_attempts=client.num_attempts,
    )


def _stage_seconds(server: Mapping[str, float], client: ClientFacts) -> StageSeconds:
    stages = [server[name] for name in ("encode", "queue", "prefill", "decode")]
    encode, queue, prefill, generation = stages
    return StageSeconds(
        decode=client.decode_seconds,
        preprocess=client.preprocess_seconds,
        retries=client.retries_seconds,
        # The clocks are two machines': what is left can come out below nothing by their grain.
        transfer=max(0.0, client.answering_seconds - sum(stages)),
        encode=encode,
        queue=queue,
        prefill=prefill,
        generation=generation,
        first_token=client.first_token_seconds,
        total=client.total_seconds,
    )
