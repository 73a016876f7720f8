"""/v1/frames: what the model sees of a medium. A question about it afterwards finds it decoded."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image
from starlette.responses import JSONResponse
from video_llava_client import Clip

from .body import Buffers, read_json, until_caller_leaves
from .conversation import Source
from .errors import ApiError
from .media import MediaStore
from .protocol import FramesRequest
from .record import Record
from .settings import GatewaySettings

_JPEG_QUALITY = 90


class Frames:
    """Answers requests to /v1/frames: an ASGI application.

    Args:
        settings: The gateway's.
        media: Decodes.
        buffers: Counts the bytes of bodies.
    """

    def __init__(self, settings: GatewaySettings, *, media: MediaStore, buffers: Buffers) -> None:
        self._settings = settings
        self._media = media
        self._buffers = buffers

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request; ApiError says why it cannot."""
        record: Record = scope["record"]
        with self._buffers.hold() as buffer:
            body = await read_json(scope, receive, buffer, self._settings)
            request = FramesRequest.read(body)
            body.clear()
            record.num_media = 1

            async def answer() -> None:
                await JSONResponse(await self._frames(request, record))(scope, receive, send)

            await until_caller_leaves(receive, answer())

    async def _frames(self, request: FramesRequest, record: Record) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                medium = await self._decode(request, record.key_name)
                record.decode_seconds = time.perf_counter() - started
                return await asyncio.to_thread(_described, medium)
        except TimeoutError:
            message = f"not decoded within {self._settings.timeout_seconds:g} s: ask later"
            raise ApiError(504, message, code="timeout") from None

    async def _decode(self, request: FramesRequest, owner: str) -> Clip | np.ndarray:
        if request.type == "image_url":
            source = Source("image", request.type, request.url, request.uuid)
            return (await self._media.images([source], owner=owner))[0]
        source = Source("video", request.type, request.url, request.uuid)
        return (await self._media.videos([source], request.media_options, owner=owner))[0]


def _described(medium: Clip | np.ndarray) -> dict[str, Any]:
    """Return the answer: a video's eight frames, or an image as the only one."""
    if not isinstance(medium, Clip):
        return _answer("image", [(medium, None, None)])
    info = medium.info
    frames = zip(medium.frames, info.indices, info.pts_seconds, strict=True)
    return _answer("video", frames) | {
        "num_frames": info.num_frames,
        "duration_seconds": info.duration_seconds,
        "warnings": info.warnings,
    }


def _answer(kind: str, frames: Iterable[tuple[np.ndarray, int | None, float | None]]) -> dict[str, Any]:
    described = [{"index": index, "seconds": seconds, "url": _jpeg_url(pixels)} for pixels, index, seconds in frames]
    return {"object": "frames", "kind": kind, "frames": described}


def _jpeg_url(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
