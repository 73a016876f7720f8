"""The whole answer to a request, and where its time went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .delta import Logprobs, ServerLoad
from .errors import StateError

if TYPE_CHECKING:
    from .clip import ClipInfo


@dataclass(frozen=True)
class StageSeconds:
    """Seconds that one request spent in each stage, in order.

    Attributes:
        decode: Client: opening and decoding media; 0 for a `Clip`.
        preprocess: Client: resizing and cropping, as far as it took longer than decoding.
        retries: Client: failed attempts and the delays after them; 0 if the first attempt was answered.
        transfer: The network in both directions and Triton's own work: the last attempt minus the server's stages.
        encode: Server: the vision encoders; short if it had seen the frames.
        queue: Server: waiting for the engine.
        prefill: Server: reading the prompt.
        generation: Server: generating the answer (the server calls this stage "decode").
        first_token: Client: from sending the request to the first text (TTFT); None if there was none.
        total: Client: from the call to the end of the answer.
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
    """Work that caches saved for one request. `stage_seconds.encode` shows whether the server had the frames.

    Attributes:
        num_tokens: Tokens of the prompt that were in the engine's prefix cache.
        num_clips: Videos that came as a `Clip`, decoded before.
    """

    num_tokens: int
    num_clips: int


@dataclass(frozen=True)
class Answer:
    """The model's whole answer.

    Attributes:
        text: The answer without the prompt.
        finish_reason: "stop" (complete) or "length" (`max_tokens` was reached).
        num_input_tokens: Tokens of the prompt, media included (2056 for a video on the 7B model).
        num_output_tokens: Tokens of the answer.
        num_cached_tokens: Tokens of the prompt that were in the engine's prefix cache.
        token_ids: The answer's tokens.
        stage_seconds: Where the time went.
        reused: What caches saved.
        frames: For each video, which frames the model saw.
        request_id: The id of the request, as in the server's log.
        num_attempts: How often the request was sent: more than 1 after retries.
        url: The address that answered.
        headers: gRPC's initial metadata of the reply: what the server, or a proxy before it, says about it.
        logprobs: For each token, if they were asked for.
        server_load: How busy the server was at the end, if that was asked for.
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
    url: str = field(repr=False)
    headers: Mapping[str, str | bytes] = field(repr=False)
    response_format: type[Any] | None = field(default=None, repr=False)
    logprobs: Logprobs = field(default=(), repr=False)
    server_load: ServerLoad | None = field(default=None, repr=False)

    @property
    def parsed(self) -> Any:
        """The answer as an object of `response_format`; None without one.

        Raises:
            StateError: It is none: the answer was cut off, or the model's own checks refuse it.
        """
        if self.response_format is None:
            return None
        try:
            return self.response_format.model_validate_json(self.text)
        except ValueError as exc:  # Pydantic's ValidationError is one
            reason = " ".join(str(exc).split())
            raise StateError(
                f"the answer is no {self.response_format.__name__} (finish_reason {self.finish_reason!r}: {reason}): "
                "allow more max_tokens if it was cut off"
            ) from exc
