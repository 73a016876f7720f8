"""One request to /v1/chat/completions and its answer."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import numpy as np
from starlette.responses import JSONResponse
from video_llava_client import AsyncAnswerStream, AsyncVideoLlava, Clip, Delta, ModelLimits, VideoLlavaError

from .completion import Completion, timing
from .conversation import Conversation
from .errors import ApiError, from_client_error, refused
from .generation import Generation
from .media import MediaStore
from .metrics import Metrics
from .protocol import ChatRequest
from .record import Record
from .settings import GatewaySettings

_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx passes each chunk on at once
]

Send = Callable[[Any], Awaitable[None]]


class Exchange:
    """One request and its answer.

    Args:
        client: Asks Triton.
        settings: The gateway's.
        metrics: Counts.
        request: What is asked.
        headers: For Triton.
        record: Gets what is known.
        send: ASGI's.
    """

    def __init__(
        self,
        client: AsyncVideoLlava,
        settings: GatewaySettings,
        metrics: Metrics,
        request: ChatRequest,
        headers: dict[str, str],
        record: Record,
        send: Send,
    ) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._request = request
        self._headers = headers
        self._record = record
        self._send = send
        self._last_delta_at = 0.0

    @property
    def model(self) -> str | None:
        """The model or the adapter that is asked for."""
        return self._request.model

    def api_error(self, error: VideoLlavaError) -> ApiError:
        """Return the answer for an error of the client."""
        answer = from_client_error(error)
        if answer.param == "structured_outputs" and self._request.response_format:
            answer.param = "response_format"
        elif answer.param not in (None, "messages", *ChatRequest.model_fields):
            answer.param = None
        return answer

    async def begin(self, media: MediaStore, limits: ModelLimits | None, deadline: float) -> Generation:
        """Decode the media, and return what will generate the answer until `deadline`."""
        request, record, owner = self._request, self._record, self._record.key_name
        names = dict.fromkeys((*self._settings.model_names, *(limits.lora_names if limits else ())))
        if request.model and request.model not in names:
            message = f"there is no model {request.model[:100]!r}: ask for {', '.join(names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        if request.num_choices > 1 and not request.sampling(temperature=self._settings.temperature)["temperature"]:
            raise refused("n", "is above 1 with temperature 0, where all answers are the same")
        system = limits.conventions.system if limits else ""
        conversation = Conversation.of(request.messages, images_as_video=self._images_as_video, system=system)
        record.num_media = len(conversation.images) + len(conversation.videos)
        if limits is not None:
            _check_room(conversation, limits)
        started = time.perf_counter()
        videos = await media.videos(conversation.videos, request.media_options, owner=owner)
        images = await media.images(conversation.images, owner=owner)
        record.decode_seconds = time.perf_counter() - started
        # What was sent is no longer needed.
        self._request = request.model_copy(update={"messages": []})
        seconds = max(0.001, deadline - time.monotonic())
        longest = limits.max_model_len if limits else None
        return Generation(
            [
                self._stream(index, conversation.prompt, videos, images, seconds, longest)
                for index in range(request.num_choices)
            ]
        )

    async def finish(self, generation: Generation) -> None:
        """Send the answer."""
        completion = Completion(
            self._request,
            completion_id=f"chatcmpl-{self._record.request_id}",
            model=self._request.model or self._settings.model_names[0],
        )
        try:
            async with aclosing(generation.deltas()) as deltas:
                if self._request.stream:
                    await self._send_stream(completion, generation, deltas)
                else:
                    async for index, delta in deltas:
                        self._note(delta)
                        completion.add(index, delta)
                    await self._send_whole(completion, generation)
        finally:
            self._record.num_prompt_tokens = completion.num_prompt_tokens
            self._record.num_cached_tokens = completion.num_cached_tokens
            self._record.num_generated_tokens = completion.num_generated_tokens

    @property
    def _images_as_video(self) -> bool:
        key = self._record.key
        wishes = (self._request.media_options.images_as_video, key.images_as_video if key else None)
        return next((wish for wish in wishes if wish is not None), self._settings.images_as_video)

    def _stream(
        self,
        index: int,
        prompt: str,
        videos: list[Clip],
        images: list[np.ndarray],
        seconds: float,
        max_model_len: int | None,
    ) -> AsyncAnswerStream:
        request, record = self._request, self._record
        sampling = request.sampling(temperature=self._settings.temperature)
        if request.seed is not None:
            # -1 is no seed.
            sampling["seed"] = request.seed if request.seed == -1 else request.seed + index
        if max_tokens := request.max_completion_tokens or request.max_tokens or max_model_len:
            sampling["max_tokens"] = max_tokens
        return self._client.stream(
            prompt=prompt,
            video=videos,
            images=images,
            sampling=sampling,
            lora_name=None if request.model in (None, "", *self._settings.model_names) else request.model,
            logprobs=request.top_logprobs or 0 if request.logprobs else None,
            timeout_seconds=seconds,
            headers=self._headers,
            request_id=f"{record.request_id}-{index}" if request.num_choices > 1 else record.request_id,
        )

    async def _send_whole(self, completion: Completion, generation: Generation) -> None:
        response = JSONResponse(
            completion.whole(self._timing(generation)), headers={"x-request-id": self._record.request_id}
        )
        await response({"type": "http"}, _never, self._send)

    async def _send_stream(
        self, completion: Completion, generation: Generation, deltas: AsyncIterator[tuple[int, Delta]]
    ) -> None:
        # What fails before the first token has a status of its own.
        index, delta = await anext(deltas)
        self._note(delta)
        headers = [*_EVENT_STREAM, (b"x-request-id", self._record.request_id.encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            await self._send_chunk(completion.first_chunk(delta) + completion.chunk(index, delta))
            async for index, delta in deltas:
                self._note(delta)
                if chunk := completion.chunk(index, delta):
                    await self._send_chunk(chunk)
            last = completion.last_chunks(self._timing(generation))
        except VideoLlavaError as exc:
            error = self.api_error(exc)
            self._record.status, self._record.error = error.status, str(exc)
            last = f"data: {json.dumps(error.body)}\n\n".encode()
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_chunk(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    def _note(self, delta: Delta) -> None:
        now = time.perf_counter()
        if self._record.first_token_seconds is None:
            self._record.first_token_seconds = now - self._record.started
            self._metrics.first_token.observe(self._record.first_token_seconds)
        elif delta.num_output_tokens:
            self._metrics.inter_token.observe(now - self._last_delta_at)
        self._last_delta_at = now

    def _timing(self, generation: Generation) -> dict[str, Any] | None:
        record = self._record
        return timing(
            generation.answers.values(),
            decode_seconds=record.decode_seconds,
            first_token_seconds=record.first_token_seconds or 0.0,
        )


def _check_room(conversation: Conversation, limits: ModelLimits) -> None:
    """Refuse media that leave no room in the model's context, before they are decoded."""
    num_images, num_videos = len(conversation.images), len(conversation.videos)
    taken = num_images * limits.tokens_per_image + num_videos * limits.tokens_per_video
    if taken >= limits.max_model_len:
        raise refused(
            "messages",
            f"{num_videos} videos and {num_images} images take {taken} positions, the context holds "
            f"{limits.max_model_len} with the answer: send fewer media",
            code="context_length_exceeded",
        )


async def _never() -> Any:
    raise AssertionError("a whole answer reads nothing")
