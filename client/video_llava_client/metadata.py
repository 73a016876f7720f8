"""The headers that go with each request, gRPC's metadata."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import OptionError
from .settings import Token
from .tensors import RawTensor

DIGEST_HEADER = "x-video-llava-media-digest"
"""Says which media a request has: a proxy that hashes it sends what it sends again to the server that has it cached."""

_MEDIA = ("video_frames", "image_frames")


def media_digest(inputs: Iterable[RawTensor]) -> str:
    """Return 32 hexadecimal digits that depend on the frames alone, "" where there are none."""
    media = [tensor for tensor in inputs if tensor.spec.name in _MEDIA]
    digest = hashlib.blake2b(digest_size=16)
    for tensor in media:
        digest.update(f"{tensor.spec.name}{tensor.shape}".encode())
        digest.update(tensor.data)
    return digest.hexdigest() if media else ""


def request_metadata(headers: Mapping[str, str], *, digest: str = "", token: str = "") -> list[tuple[str, str]]:
    """Return the metadata of one attempt: the caller's headers, the digest, the token, and the trace it is part of."""
    metadata = [*headers.items(), *_trace_context().items()]
    if digest:
        metadata.append((DIGEST_HEADER, digest))
    if token:
        metadata.append(("authorization", f"Bearer {token}"))
    return metadata


def read_token(token: Token | None) -> str:
    """Return the token for one attempt; a callable is called for each.

    Raises:
        OptionError: It is not a printable text, or would have to be awaited.
    """
    value: Any = token() if callable(token) else token
    if inspect.iscoroutine(value):
        value.close()
        raise OptionError("token is a coroutine function: only AsyncVideoLlava can await it")
    return _checked(value)


async def read_token_async(token: Token | None) -> str:
    """Return the token as `read_token` does, awaiting it where it is a coroutine function's."""
    value: Any = token() if callable(token) else token
    return _checked(await value if inspect.isawaitable(value) else value)


def _checked(token: Any) -> str:
    if token is None:
        return ""
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise OptionError(f"token must be a printable ASCII text, got a {type(token).__name__}")
    return token


def _trace_context() -> dict[str, str]:
    # Where nobody has imported OpenTelemetry there is no trace to go on with, so nobody pays for its import.
    carrier: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate

        propagate.inject(carrier)
    return carrier
