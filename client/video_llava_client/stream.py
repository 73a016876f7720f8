"""One request under way: an iterator of deltas inside a `with` block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import grpc

from .answers import Answer, ClientSeconds, Delta, join
from .errors import Internal, InterruptedStream, StateError, from_error_text
from .media import ClipInfo
from .triton import Response, from_rpc_error, read_response


@dataclass(frozen=True)
class Pending:
    """What the client knows of a request before it is answered.

    Attributes:
        request_id: Its id, as the server's log has it.
        url: Where it goes, for the texts of errors.
        timeout_seconds: How long the answer may take, for the texts of errors.
        streamed: Whether the answer comes in deltas.
        frames: For each video, which frames are sent.
        decode_seconds: Spent on opening and decoding media.
        preprocess_seconds: Spent on resizing and cropping.
        started: `time.perf_counter()` when the caller asked.
    """

    request_id: str
    url: str
    timeout_seconds: float
    streamed: bool
    frames: tuple[ClipInfo, ...]
    decode_seconds: float
    preprocess_seconds: float
    started: float


class AnswerStream:
    """The answer while it is written; made by `VideoLlava.stream`.

    with client.stream("What happens?", video="clip.mp4") as stream:
        for delta in stream:
            print(delta.text, end="", flush=True)
    print(stream.answer.finish_reason)

    The request is sent where the block begins. Leaving the block before the end cancels it on the server.
    For one thread, except `close`.
    """

    def __init__(self, pending: Pending, send: Callable[[], Any]) -> None:
        self._pending = pending
        self._send = send
        self._call: Any = None
        self._sent = 0.0
        self._first_text: float | None = None
        self._received: list[Delta] = []
        self._answer: Answer | None = None
        self._deltas = self._read()

    def __repr__(self) -> str:
        state = "finished" if self._answer else f"{len(self._received)} deltas received"
        return f"AnswerStream({self.request_id!r}, {state})"

    @property
    def request_id(self) -> str:
        """The request's id, as the server's log has it."""
        return self._pending.request_id

    @property
    def answer(self) -> Answer:
        """The whole answer.

        Raises:
            StateError: It is not complete yet, or never will be.
        """
        if self._answer is None:
            raise StateError("the answer is not complete: iterate over the stream to its end first")
        return self._answer

    def __enter__(self) -> Self:
        if self._call is not None:
            raise StateError("a stream serves one `with` block: ask again for another answer")
        self._sent = time.perf_counter()
        self._call = self._send()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the request unless its answer is complete; any thread may."""
        if self._call is not None and self._answer is None:
            self._call.cancel()

    def __iter__(self) -> Iterator[Delta]:
        return self

    def __next__(self) -> Delta:
        """Wait for the next delta.

        Raises:
            ServerError: One of its kinds, with the deltas before it in `received`.
        """
        if self._call is None:
            raise StateError("the stream is not open: write `with client.stream(...) as stream:`")
        return next(self._deltas)

    def _read(self) -> Iterator[Delta]:
        for response in self._responses():
            delta = self._keep(response)
            if response.is_final:
                self._finish()
            if delta is not None:
                yield delta
            if response.is_final:
                return
        raise InterruptedStream(
            f"{self._pending.url} ended the stream before the answer was complete: ask again",
            request_id=self.request_id,
            received=self._received,
        )

    def _responses(self) -> Iterator[Response]:
        """Yield the server's responses; the border at which gRPC's errors and Triton's texts become ours."""
        try:
            for message in self._call:
                response = read_response(message)
                if response.error:
                    raise from_error_text(response.error, request_id=self.request_id, received=self._received)
                yield response
        except grpc.RpcError as exc:
            raise from_rpc_error(
                exc,
                url=self._pending.url,
                timeout_seconds=self._pending.timeout_seconds,
                request_id=self.request_id,
                received=self._received,
            ) from exc
        except ValueError as exc:
            raise self._nonsense(exc) from exc

    def _keep(self, response: Response) -> Delta | None:
        # The mark of the end may come alone, after the last delta.
        if not response.outputs:
            return None
        try:
            delta = Delta.from_outputs(response.outputs)
        except (KeyError, ValueError, TypeError, IndexError) as exc:
            raise self._nonsense(exc) from exc
        if self._first_text is None:
            # The model writes on after `ASSISTANT:`, so its first word brings a space along.
            delta = replace(delta, text=delta.text.lstrip())
            self._first_text = time.perf_counter() if delta.text else None
        self._received.append(delta)
        return delta

    def _finish(self) -> None:
        total = time.perf_counter() - self._pending.started
        # The server ends the stream right after the final response; letting it do so spares it a cancelled stream.
        with suppress(grpc.RpcError):
            for _ in self._call:
                pass
        try:
            self._answer = join(
                self._received,
                client_seconds=self._client_seconds(total),
                frames=self._pending.frames,
                request_id=self.request_id,
            )
        except (KeyError, ValueError) as exc:
            raise self._nonsense(exc) from exc

    def _client_seconds(self, total: float) -> ClientSeconds:
        streamed = self._pending.streamed and self._first_text is not None
        return ClientSeconds(
            decode=self._pending.decode_seconds,
            preprocess=self._pending.preprocess_seconds,
            first_token=(self._first_text or 0.0) - self._sent if streamed else None,
            total=total,
        )

    def _nonsense(self, cause: Exception) -> Internal:
        return Internal(
            f"{self._pending.url} answered what this client cannot read ({type(cause).__name__}: {cause}): "
            "are client and model repository of the same release?",
            request_id=self.request_id,
            received=self._received,
        )
