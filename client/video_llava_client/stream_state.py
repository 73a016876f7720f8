"""The state of one streamed answer, and the steps that complete it."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .answers import Answer, Reused, StageSeconds
from .call import Call
from .delta import Delta
from .encoded_request import EncodedRequest
from .errors import Internal, InterruptedStream, ServerError, StateError, from_error_text
from .settings import Timeouts
from .steps import ReadHeaders, Receive, Steps
from .triton import read_response


class StreamState:
    """Collects what arrives for one request.

    Args:
        request: The request.
        call: Sends it.
        timeouts: How long the first token may take.
        started: `time.perf_counter()` at the call of `ask`, or at the begin of the stream's block.

    Attributes:
        deltas: What has arrived.
    """

    def __init__(self, request: EncodedRequest, call: Call, timeouts: Timeouts, *, started: float) -> None:
        self.deltas: list[Delta] = []
        self._request = request
        self._call = call
        self._timeouts = timeouts
        self._started = started
        self._first_sent = self._sent = self._first_text = 0.0
        self._headers: Mapping[str, str | bytes] = {}
        self._answer: Answer | None = None

    @property
    def request_id(self) -> str:
        """The id of the request, as in the server's log."""
        return self._request.request_id

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

    def steps(self) -> Steps[None]:
        """Send the request, yield this state when that is done, then each delta when it comes."""
        yield from self._send()
        yield self
        while True:
            try:
                yield from self._attempt()
                return
            except ServerError as exc:
                yield from self._call.back_off(exc)
            yield from self._send()

    def _send(self) -> Steps[None]:
        self._sent = time.perf_counter()
        self._first_sent = self._first_sent or self._sent
        self._stream = yield from self._call.send()

    def _attempt(self) -> Steps[None]:
        while not self.is_complete:
            first = None if self.deltas else self._timeouts.first_token
            message = yield from self._call.wait(Receive(self._stream, first), self.deltas)
            if message is None:
                raise self._interrupted()
            if not self.deltas:
                self._headers = dict((yield ReadHeaders(self._stream)))
            delta = self._receive(message)
            if delta is not None:
                yield delta

    def _receive(self, message: Any) -> Delta | None:
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
                f"{self._call.url} sent an answer that this client cannot read ({type(exc).__name__}: {exc}): "
                "are client and server of the same release?",
                request_id=self.request_id,
                received=self.deltas,
            ) from exc
        return delta

    def _interrupted(self) -> InterruptedStream:
        """Return the error for a stream that ended before its answer did."""
        return InterruptedStream(
            f"{self._call.url} ended the stream before the answer was complete: ask again",
            request_id=self.request_id,
            received=self.deltas,
        )

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
            num_attempts=self._call.num_attempts,
            url=self._call.url,
            headers=self._headers,
            response_format=self._request.response_format,
            logprobs=tuple(each for delta in self.deltas for each in delta.logprobs),
            server_load=last.server_load,
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
