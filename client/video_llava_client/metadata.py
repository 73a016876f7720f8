"""The headers of each request: gRPC's metadata."""

import hashlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import OptionError
from .settings import Token
from .tensors import RawTensor

DIGEST_HEADER = "x-video-llava-media-digest"
"""Identifies the media of a request: a proxy that hashes it sends the same media to the same replica and its cache."""

_MEDIA = ("video_frames", "image_frames")


def media_digest(inputs: Iterable[RawTensor]) -> str:
    """Return 32 hexadecimal digits that depend on the frames alone, "" without frames."""
    media = [tensor for tensor in inputs if tensor.spec.name in _MEDIA]
    digest = hashlib.blake2b(digest_size=16)
    for tensor in media:
        digest.update(f"{tensor.spec.name}{tensor.shape}".encode())
        digest.update(tensor.data)
    return digest.hexdigest() if media else ""


def request_metadata(headers: Mapping[str, str], *, digest: str = "", token: str = "") -> list[tuple[str, str]]:
    """Return the metadata of one attempt: headers, OpenTelemetry's trace context, digest and token."""
    metadata = [*headers.items(), *_trace_context().items()]
    if digest:
        metadata.append((DIGEST_HEADER, digest))
    if token:
        metadata.append(("authorization", f"Bearer {token}"))
    return metadata


def read_token(token: Token | None) -> str:
    """Return the token for one attempt; a callable is called for each."""
    value: Any = token() if callable(token) else token
    if inspect.iscoroutine(value):
        value.close()
        raise OptionError("token is a coroutine function: only AsyncVideoLlava can await it")
    return _checked(value)


async def read_token_async(token: Token | None) -> str:
    """Return the token as `read_token` does, and await that of a coroutine function."""
    value: Any = token() if callable(token) else token
    return _checked(await value if inspect.isawaitable(value) else value)


def _checked(token: Any) -> str:
    if token is None:
        return ""
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise OptionError(f"token must be a printable ASCII text, got a {type(token).__name__}")
    return token


def _trace_context() -> dict[str, str]:
    # A process that has not imported OpenTelemetry has no trace, and does not pay for the import.
    carrier: dict[str, str] = {}
    if "opentelemetry.trace" in sys.modules:
        from opentelemetry import propagate

        propagate.inject(carrier)
    return carrier
