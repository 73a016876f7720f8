"""The body of a request: its size and its time are bounded while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers

from .errors import ApiError, CallerLeft
from .settings import GatewaySettings

Receive = Callable[[], Awaitable[Any]]


class Buffers:
    """Bytes of bodies that are in memory.

    Args:
        max_bytes: Of all together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0

    @contextmanager
    def hold(self) -> Iterator[Buffer]:
        """Yield what one request holds, until the end of the block at most."""
        buffer = Buffer(self)
        try:
            yield buffer
        finally:
            buffer.release()

    def change(self, num_bytes: int) -> None:
        """Count; ApiError 429 if they are too many."""
        if num_bytes > 0 and self._num_bytes + num_bytes > self._max_bytes:
            message = "the gateway reads as many bytes as it has memory for: ask later"
            raise ApiError(429, message, code="gateway_full", retry_after_seconds=1.0)
        self._num_bytes += num_bytes


class Buffer:
    """The bytes of one request."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Count more bytes; ApiError 429 if the gateway has no room."""
        self._buffers.change(num_bytes)
        self._num_bytes += num_bytes

    def release(self) -> None:
        """The bytes are no longer in memory."""
        self._buffers.change(-self._num_bytes)
        self._num_bytes = 0


async def read_json(scope: Any, receive: Receive, buffer: Buffer, settings: GatewaySettings) -> bytearray:
    """Return the body of a request with JSON, within the limits of the gateway and of the caller's key.

    Raises:
        ApiError: It is no JSON by its type (415), has too many bytes (413) or takes too long (408).
        CallerLeft: The caller did not wait.
    """
    headers, key, seconds = Headers(scope=scope), scope["record"].key, settings.body_seconds
    max_bytes = min(settings.max_body_bytes, (key and key.max_body_bytes) or settings.max_body_bytes)
    # A page in a browser may send other types to any address without asking.
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "send JSON, with Content-Type: application/json")
    too_large = ApiError(413, f"the request has more than {max_bytes} bytes: send less", code="request_too_large")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise CallerLeft
                chunk = message.get("body", b"")
                if len(body) + len(chunk) > max_bytes:
                    raise too_large
                buffer.add(len(chunk))
                body += chunk
                if not message.get("more_body"):
                    return body
    except TimeoutError:
        raise ApiError(408, f"the request did not arrive within {seconds:g} s", code="timeout") from None


async def until_caller_leaves(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` after the body was read; cancel it if the caller leaves, and raise CallerLeft."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerLeft
        working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
