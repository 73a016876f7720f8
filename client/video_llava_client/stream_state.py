"""The state of one streamed answer, without I/O: shared by the blocking and the asyncio stream."""

import time
from dataclasses import replace
from typing import Any

from .answers import Answer, Reused, StageSeconds
from .call import Call
from .delta import Delta
from .encoded_request import EncodedRequest
from .errors import Internal, InterruptedStream, StateError, from_error_text
from .pool import Pool
from .settings import Settings
from .triton import read_response


class StreamState(Call):
    """Sends a request and collects what arrives.

    Args:
        request: The request.
        pool: The replicas it may go to.
        settings: The client's own.
        started: `time.perf_counter()` at the call of `ask` or `stream`.

    Attributes:
        deltas: What has arrived.
    """

    def __init__(self, request: EncodedRequest, pool: Pool, settings: Settings, *, started: float) -> None:
        super().__init__(
            pool,
            settings,
            "stream_infer",
            request.message,
            timeout_seconds=request.timeout_seconds,
            request_id=request.request_id,
            digest=request.digest,
        )
        self.deltas: list[Delta] = []
        self._request = request
        self._started = started
        self._first_sent = self._sent = self._first_text = 0.0
        self._answer: Answer | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the whole answer has arrived."""
        return self._answer is not None

    @property
    def answer(self) -> Answer:
        """The whole answer."""
        if self._answer is None:
            raise StateError("the answer is not complete: iterate over the stream to its end first")
        return self._answer

    def send(self, token: str) -> Any:
        """Send the request as `Call.send` does; return gRPC's call."""
        self._sent = time.perf_counter()
        self._first_sent = self._first_sent or self._sent
        return super().send(token)

    def receive(self, message: Any) -> Delta | None:
        """Read one message of the stream; return its delta, if it has one."""
        try:
            response = read_response(message)
            if response.error:
                raise from_error_text(response.error, request_id=self.request_id, received=self.deltas)
            # The end may be marked by a message of its own, without outputs.
            delta = self._append(Delta.from_outputs(response.outputs)) if response.outputs else None
            if response.is_final:
                self._answer = self._make_answer()
        except (KeyError, ValueError, TypeError, IndexError) as exc:
            raise Internal(
                f"{self.url} sent an answer that this client cannot read ({type(exc).__name__}: {exc}): "
                "are client and server of the same release?",
                request_id=self.request_id,
                received=self.deltas,
            ) from exc
        return delta

    def interrupted(self) -> InterruptedStream:
        """Return the error for a stream that ended before its answer did."""
        return InterruptedStream(
            f"{self.url} ended the stream before the answer was complete: ask again",
            request_id=self.request_id,
            received=self.deltas,
        )

    def replace_channel(self) -> None:
        """Give the channel up after a signal handler raised inside gRPC, whose locks may still be held."""
        if self._replica is not None:
            self._pool.replace_channel(self._replica)

    def _append(self, delta: Delta) -> Delta:
        if not self._first_text:
            # The model continues after `ASSISTANT:`, so its first word has a leading space.
            delta = replace(delta, text=delta.text.lstrip())
            self._first_text = time.perf_counter() if delta.text else 0.0
        self.deltas.append(delta)
        return delta

    def _make_answer(self) -> Answer:
        last = self.deltas[-1] if self.deltas else None
        if last is None or last.finish_reason is None or last.server_seconds is None:
            raise ValueError("the last response lacks finish_reason or stage_seconds")
        return Answer(
            text="".join(delta.text for delta in self.deltas),
            finish_reason=last.finish_reason,
            num_input_tokens=last.num_input_tokens,
            num_output_tokens=sum(delta.num_output_tokens for delta in self.deltas),
            num_cached_tokens=last.num_cached_tokens,
            token_ids=tuple(token for delta in self.deltas for token in delta.token_ids),
            stage_seconds=self._stage_seconds(
                *(last.server_seconds[name] for name in ("encode", "queue", "prefill", "decode"))
            ),
            reused=Reused(num_tokens=last.num_cached_tokens, num_clips=self._request.num_reused_clips),
            frames=self._request.frames,
            request_id=self.request_id,
            num_attempts=self._attempts.num,
        )

    def _stage_seconds(self, encode: float, queue: float, prefill: float, generation: float) -> StageSeconds:
        now = time.perf_counter()
        return StageSeconds(
            decode=self._request.decode_seconds,
            preprocess=self._request.preprocess_seconds,
            retries=self._sent - self._first_sent,
            # The clocks of two machines: the difference may be slightly below 0.
            transfer=max(0.0, now - self._sent - encode - queue - prefill - generation),
            encode=encode,
            queue=queue,
            prefill=prefill,
            generation=generation,
            first_token=self._first_text - self._first_sent if self._first_text else None,
            total=now - self._started,
        )
