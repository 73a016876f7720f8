"""Every error this package raises.

VideoLlavaError
├── StateError               a client or a stream that is not open, or not finished
├── OptionError              the value of an option
├── PromptError              the question or the prompt
├── RequestTooLarge          more bytes than a message may have; nothing was sent
├── MediaError               a video or an image; .source names it
│   ├── MediaNotFound        no such file (also FileNotFoundError)
│   ├── UnreadableMedia      not a media file, or damaged
│   ├── NoVideoStream        a media file without video
│   ├── NoFrames             frames do not decode, or the time window has none
│   ├── MediaRefused         from where `SourcePolicy` does not allow it
│   ├── MediaTooLarge        more pixels, bytes or seconds than `MediaLimits` allows
│   └── MediaTimedOut        not decoded within `MediaLimits.timeout_seconds` (also TimeoutError)
└── ServerError              the server or the connection; .request_id, and .received: the deltas before the error
    ├── InvalidRequest       the server refused the request
    │   └── ContextFull      the prompt is longer than the model's context
    ├── AccessDenied         a token, header or certificate is missing or wrong
    ├── Unavailable          not reachable, not ready or full: try later; .reason (also ConnectionError)
    ├── DeadlineExceeded     no complete answer within `timeout_seconds` (also TimeoutError)
    ├── Cancelled            the client or the server cancelled the request
    ├── Internal             the server failed, or sent an answer that cannot be read
    └── InterruptedStream    the stream ended before the answer did (also ConnectionError)

Errors of gRPC, PyAV and Pillow do not leave the package: they are the `__cause__` of one of these.
A message has at most `MAX_MESSAGE_LENGTH` characters: longer ones lose their middle.
"""

import re
from collections.abc import Sequence

from .delta import Delta

MAX_MESSAGE_LENGTH = 500
_HEAD_LENGTH = 150  # what failed; the reason and the advice stand at the end


class VideoLlavaError(Exception):
    """Root of every error of this package."""

    def __init__(self, message: str) -> None:
        if len(message) > MAX_MESSAGE_LENGTH:
            tail_length = MAX_MESSAGE_LENGTH - _HEAD_LENGTH - len(" … ")
            message = f"{message[:_HEAD_LENGTH]} … {message[-tail_length:]}"
        super().__init__(message)


class StateError(VideoLlavaError, RuntimeError):
    """A client or a stream is not open, or its answer is not complete."""


class OptionError(VideoLlavaError, ValueError):
    """The value of an option cannot be used."""


class PromptError(VideoLlavaError, ValueError):
    """The question or the prompt does not fit the model's format or the media."""


class RequestTooLarge(VideoLlavaError, ValueError):
    """The request has more bytes than a message may have."""


class MediaError(VideoLlavaError):
    """A video or an image cannot be used.

    Attributes:
        source: The name of the file, or what stands for it.
    """

    def __init__(self, message: str, *, source: str = "") -> None:
        super().__init__(message)
        self.source = source


class MediaNotFound(MediaError, FileNotFoundError):
    """There is no such file."""


class UnreadableMedia(MediaError):
    """The file is neither an image nor a video, or it is damaged."""


class NoVideoStream(MediaError):
    """A media file without video."""


class NoFrames(MediaError):
    """The frames that are needed do not decode or do not exist."""


class MediaRefused(MediaError):
    """It comes from where the `SourcePolicy` does not allow it."""


class MediaTooLarge(MediaError):
    """The medium exceeds one of the `MediaLimits`."""


class MediaTimedOut(MediaError, TimeoutError):
    """The medium was not decoded within `MediaLimits.timeout_seconds`."""


class ServerError(VideoLlavaError):
    """The server refused, failed or was not reached. Raised itself where the server gave no status code.

    Attributes:
        request_id: The id of the request, as in the server's log; "" if none was sent.
        received: The deltas that arrived before the error.
    """

    def __init__(self, message: str, *, request_id: str = "", received: Sequence[Delta] = ()) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.received: tuple[Delta, ...] = tuple(received)


class InvalidRequest(ServerError):
    """The server refused the request, and will refuse it again."""


class ContextFull(InvalidRequest):
    """The prompt, media included, leaves no room for an answer.

    Attributes:
        num_positions: Tokens of the prompt.
        max_positions: Tokens that prompt and answer may have together.
    """

    num_positions = 0
    max_positions = 0


class AccessDenied(ServerError):
    """The server, or a proxy before it, does not accept the credentials."""


class Unavailable(ServerError, ConnectionError):
    """The server cannot be reached, is not ready or is full; the same request may succeed later.

    Attributes:
        reason: "full", "draining" (about to stop), "engine_dead" (until it is restarted), "dropped"
            (the features of its media: ask again), or "" if not known.
        retry_after_seconds: When the server expects to have room; None if it does not say.
    """

    reason = ""
    retry_after_seconds: float | None = None


class DeadlineExceeded(ServerError, TimeoutError):
    """The answer was not complete within `timeout_seconds`."""


class Cancelled(ServerError):
    """The request was cancelled: its client was closed, or the server ended it."""


class Internal(ServerError):
    """The server failed, or sent an answer that this client cannot read."""


class InterruptedStream(ServerError, ConnectionError):
    """The connection or the stream ended before the answer did."""


# Names of gRPC status codes. The text of an error in a stream begins with one.
_BY_CODE: dict[str, type[ServerError]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "NOT_FOUND": InvalidRequest,
    "RESOURCE_EXHAUSTED": InvalidRequest,  # a message over the server's size limit
    "UNAUTHENTICATED": AccessDenied,
    "PERMISSION_DENIED": AccessDenied,
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "INTERNAL": Internal,
}
_CODED_TEXT = re.compile(rf"\b({'|'.join(_BY_CODE)}): (.*)", re.DOTALL)

# Triton's own texts, without a code, for requests that may succeed later or elsewhere.
_UNAVAILABLE_TEXT = re.compile(
    "has stopped accepting new inference requests|Exceeds maximum queue size|is not ready|no available versions"
)
# The server's own models write it.
_REASON = re.compile(r"\breason=(\w+)(?:, retry_after_seconds=(\d+(?:\.\d+)?))?")
_RESTRICTED_TEXT = "This protocol is restricted"
_CONTEXT_TEXT = re.compile(r"takes (\d+) positions .* the context holds (\d+)", re.DOTALL)


def error_class(code: str, text: str = "") -> type[ServerError]:
    """Return the class for a gRPC status code such as "UNAVAILABLE", or else for Triton's text."""
    if _RESTRICTED_TEXT in text:
        return AccessDenied  # Triton's own code for it is UNAVAILABLE, but a retry does not help
    if code in _BY_CODE:
        return _BY_CODE[code]
    return Unavailable if _UNAVAILABLE_TEXT.search(text) else ServerError


def is_draining(error: ServerError) -> bool:
    """Whether `error` says that its server is about to stop."""
    return isinstance(error, Unavailable) and error.reason == "draining"


def from_error_text(text: str, *, request_id: str = "", received: Sequence[Delta] = ()) -> ServerError:
    """Return the error for the text of an error in a stream.

    The text is `CODE: message`, perhaps after a prefix of Triton's such as "in ensemble 'video_llava', ".
    Refusals by Triton itself (a missing tensor, a wrong type) have no code: most become a plain `ServerError`.
    """
    coded = _CODED_TEXT.search(text)
    code, message = coded.groups() if coded else ("", text)
    kind, message = error_class(code, text), message.strip()
    if kind is InvalidRequest and (lengths := _CONTEXT_TEXT.search(message)):
        error = ContextFull(message, request_id=request_id, received=received)
        error.num_positions, error.max_positions = map(int, lengths.groups())
        return error
    error = kind(message, request_id=request_id, received=received)
    if isinstance(error, Unavailable) and (reason := _REASON.search(message)):
        error.reason = reason[1]
        error.retry_after_seconds = float(reason[2]) if reason[2] else None
    return error
