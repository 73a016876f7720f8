"""/v1/chat/completions."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from starlette.datastructures import Headers
from video_llava_client import AsyncVideoLlava, ModelLimits, VideoLlavaError

from .body import Buffer, Buffers, read_json, until_caller_leaves
from .errors import ApiError
from .exchange import Exchange, Send
from .media import MediaStore
from .metrics import Metrics
from .protocol import ChatRequest
from .record import Record
from .settings import GatewaySettings

CALLER_HEADER = "x-video-llava-caller"
"""Names the caller in the server's request log."""

_TRACE_HEADERS = ("traceparent", "tracestate")


class ChatCompletions:
    """Answers requests to /v1/chat/completions: an ASGI application.

    Args:
        client: Asks Triton.
        settings: The gateway's.
        metrics: Counts.
        media: Decodes.
        buffers: Counts the bytes of bodies.
    """

    def __init__(
        self,
        client: AsyncVideoLlava,
        settings: GatewaySettings,
        metrics: Metrics,
        *,
        media: MediaStore,
        buffers: Buffers,
    ) -> None:
        self._client = client
        self._settings = settings
        self._metrics = metrics
        self._media = media
        self._buffers = buffers
        self._limits: ModelLimits | None = None

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Answer one request; ApiError says why it cannot."""
        record: Record = scope["record"]
        headers = Headers(scope=scope)
        with self._buffers.hold() as buffer:
            body = await read_json(scope, receive, buffer, self._settings)
            request = ChatRequest.read(body)
            body.clear()
            record.request_id = request.request_id or _id_in(headers) or uuid.uuid4().hex
            record.is_stream = bool(request.stream)
            passed_on = _passed_on(headers, record)
            exchange = Exchange(self._client, self._settings, self._metrics, request, passed_on, record, send)
            del request
            await until_caller_leaves(receive, self._answer(exchange, buffer))

    async def _limits_for(self, model: str | None) -> ModelLimits | None:
        """Return the sizes that the model takes; None if the server does not say.

        The server is asked again about a `model` that is none of the known names: it may have been restarted with
        other adapters.
        """
        limits, names = self._limits, self._settings.model_names
        if limits is None or (model and model not in (*names, *limits.lora_names)):
            self._limits = limits = (await self._client.info()).limits
        return limits

    async def _answer(self, exchange: Exchange, buffer: Buffer) -> None:
        deadline = time.monotonic() + self._settings.timeout_seconds
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                limits = await self._limits_for(exchange.model)
                generation = await exchange.begin(self._media, limits, deadline)
            # What has been decoded is small.
            buffer.release()
            # The client keeps the deadline, but for a caller who does not read.
            async with asyncio.timeout(deadline + 1 - time.monotonic()):
                await exchange.finish(generation)
        except VideoLlavaError as exc:
            raise exchange.api_error(exc) from exc
        except TimeoutError:
            message = f"no complete answer within {self._settings.timeout_seconds:g} s: ask for less, or later"
            raise ApiError(504, message, code="timeout") from None


def _passed_on(headers: Headers, record: Record) -> dict[str, str]:
    """Return the headers for Triton: who asks, and the caller's trace."""
    traced = {name: headers[name] for name in _TRACE_HEADERS if _is_text(headers.get(name, ""))}
    return traced | ({CALLER_HEADER: record.key_name} if record.key_name else {})


def _id_in(headers: Headers) -> str:
    """Return the caller's own id of the request, if it can be one."""
    own = headers.get("x-request-id", "")
    return own if _is_text(own) and " " not in own and len(own) <= 128 else ""


def _is_text(value: str) -> bool:
    return value.isascii() and value.isprintable() and value != ""
