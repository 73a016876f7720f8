"""Errors in OpenAI's form, with the status that its clients expect."""

from __future__ import annotations

import math
import re
from typing import Any

from starlette.responses import JSONResponse
from video_llava_client import (
    Cancelled,
    ContextFull,
    DeadlineExceeded,
    InvalidRequest,
    MediaError,
    OptionError,
    PromptError,
    RequestTooLarge,
    Unavailable,
    VideoLlavaError,
)
from video_llava_client.errors import MAX_MESSAGE_LENGTH

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 429: "rate_limit_error"}
_SAMPLING_TEXT = re.compile(r"sampling_parameters: (\w+)")
# For a server that does not say when: about as long as one is skipped by the client, or a load balancer's check takes.
_UNAVAILABLE_SECONDS = 5.0


class CallerLeft(Exception):
    """The caller has closed the connection."""


class ApiError(Exception):
    """An answer that is an error: `{"error": {"message", "type", "param", "code"}}`.

    Attributes:
        status: HTTP's.
        param: The field of the request, such as "messages[0].content[1]".
        code: A short name for programs.
        retry_after_seconds: When to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message[:MAX_MESSAGE_LENGTH])
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_seconds = retry_after_seconds

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        kind = _TYPES.get(self.status, _TYPES[400] if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the HTTP answer."""
        headers = {}
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after_seconds)))
        if self.code == "draining":
            headers["Connection"] = "close"  # the next request goes to another gateway
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body, self.status, headers)


def refused(param: str, message: str, *, code: str | None = None) -> ApiError:
    """Return the error for a field that cannot be used."""
    return ApiError(400, f"{param}: {message}", param=param, code=code)


def from_client_error(error: VideoLlavaError, *, param: str | None = None) -> ApiError:
    """Return the answer for an error of the client; `param` is the field it comes from, if that is known."""
    message = str(error)
    match error:
        case ContextFull():
            return ApiError(400, message, param="messages", code="context_length_exceeded")
        case MediaError():
            return ApiError(400, f"{param}: {message}" if param else message, param=param, code="invalid_media")
        case InvalidRequest() | OptionError() | PromptError():
            named = _SAMPLING_TEXT.search(message)
            return ApiError(400, message, param=named[1] if named else param)
        case RequestTooLarge():
            return ApiError(413, message, param="messages", code="request_too_large")
        case Unavailable(reason="full"):
            seconds = error.retry_after_seconds or 1.0
            return ApiError(429, message, code="server_full", retry_after_seconds=seconds)
        case Unavailable():
            return ApiError(503, message, code=error.reason or None, retry_after_seconds=_UNAVAILABLE_SECONDS)
        case Cancelled():
            return draining()
        case DeadlineExceeded():
            return ApiError(504, message, code="timeout")
    return ApiError(500, message)


def draining() -> ApiError:
    """Return the answer of a gateway that is about to stop."""
    message = "the gateway is about to stop: ask again"
    return ApiError(503, message, code="draining", retry_after_seconds=_UNAVAILABLE_SECONDS)
