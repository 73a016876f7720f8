"""Every error this package raises.

VideoLlavaError
├── StateError               a client or a stream that is not open, or not finished
├── OptionError              an option's value
├── PromptError              the question or the prompt
├── RequestTooLarge          more bytes than one message may have; nothing was sent
├── MediaError               a video or an image; .source names it
│   ├── MediaNotFound        no such file (also FileNotFoundError)
│   ├── UnreadableMedia      not a media file, or damaged
│   ├── NoVideoStream        a media file without a video
│   ├── NoFrames             a video whose frames do not decode, or a time window without any
│   ├── MediaTooLarge        more pixels, bytes or seconds than `MediaLimits` allow
│   └── MediaTimedOut        not read and decoded in `MediaLimits.timeout_seconds` (also TimeoutError)
└── ServerError              the server or the way to it; .request_id, and .received: the deltas before the error
    ├── InvalidRequest       the server refused the request
    │   └── ContextFull      the prompt is longer than the model's context
    ├── AccessDenied         the server wants a token, a header or a certificate that it did not get
    ├── Unavailable          not reachable, not ready or full: try later (also ConnectionError)
    ├── DeadlineExceeded     `timeout_seconds` have passed (also TimeoutError)
    ├── Cancelled            the client was closed, or the server gave the request up
    ├── Internal             a fault of the server, or an answer that makes no sense
    └── InterruptedStream    the stream ended before the answer did (also ConnectionError)

Errors of gRPC, PyAV and Pillow never leave the package: they are the `__cause__` of one of these.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .answers import Delta


class VideoLlavaError(Exception):
    """Root of every error of this package."""


class StateError(VideoLlavaError, RuntimeError):
    """A client or a stream is used before it is open or after it is closed, or asked for what is not there yet."""


class OptionError(VideoLlavaError, ValueError):
    """An option has a value that cannot be used."""


class PromptError(VideoLlavaError, ValueError):
    """The question or the prompt does not fit the model's format or the media."""


class RequestTooLarge(VideoLlavaError, ValueError):
    """The request has more bytes than one message may have."""


class MediaError(VideoLlavaError):
    """A video or an image cannot be used.

    Attributes:
        source: The file's name, or what stands for it.
    """

    def __init__(self, message: str, *, source: str = "") -> None:
        super().__init__(message)
        self.source = source


class MediaNotFound(MediaError, FileNotFoundError):
    """There is no such file."""


class UnreadableMedia(MediaError):
    """The file is no image and no video, or it is damaged."""


class NoVideoStream(MediaError):
    """The file is a media file, but holds no video."""


class NoFrames(MediaError):
    """The file has a video stream, but the frames that are needed do not decode or do not exist."""


class MediaTooLarge(MediaError):
    """The medium is over one of the `MediaLimits`."""


class MediaTimedOut(MediaError, TimeoutError):
    """The medium was not read and decoded in `MediaLimits.timeout_seconds`."""


class ServerError(VideoLlavaError):
    """The server refused or failed, or could not be reached; itself raised where the server gave no code.

    Attributes:
        request_id: The id of the request, as the server's log has it; "" where no request was sent.
        received: What had arrived of the answer before the error.
    """

    def __init__(self, message: str, *, request_id: str = "", received: Sequence[Delta] = ()) -> None:
        super().__init__(message)
        self.request_id = request_id
        self.received = tuple(received)


class InvalidRequest(ServerError):
    """The server refused the request; the same request will be refused again."""


class ContextFull(InvalidRequest):
    """The prompt, media included, leaves no room for an answer.

    Attributes:
        num_positions: What the prompt takes.
        max_positions: What the model has for prompt and answer together.
    """

    def __init__(
        self,
        message: str,
        *,
        num_positions: int,
        max_positions: int,
        request_id: str = "",
        received: Sequence[Delta] = (),
    ) -> None:
        super().__init__(message, request_id=request_id, received=received)
        self.num_positions = num_positions
        self.max_positions = max_positions


class AccessDenied(ServerError):
    """The server, or a proxy before it, does not let this caller in."""


class Unavailable(ServerError, ConnectionError):
    """The server cannot be reached, is not ready or is full; the same request may succeed later."""


class DeadlineExceeded(ServerError, TimeoutError):
    """The answer was not complete after `timeout_seconds`."""


class Cancelled(ServerError):
    """The request was cancelled: its client was closed, or the server gave it up."""


class Internal(ServerError):
    """The server failed, or answered what this client cannot read."""


class InterruptedStream(ServerError, ConnectionError):
    """The connection or the stream ended before the answer did."""


# gRPC's names of status codes; the server begins the text of an error in a stream with one of them.
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

# What Triton itself writes, without a code, where the same request may be answered later or elsewhere.
_UNAVAILABLE_TEXT = re.compile(
    "has stopped accepting new inference requests|Exceeds maximum queue size|is not ready|no available versions"
)
# What the server's own models write while they are emptied before a stop.
_LEAVING_TEXT = "ask another server"
_RESTRICTED_TEXT = "This protocol is restricted"
_CONTEXT_TEXT = re.compile(r"takes (\d+) positions .* the context holds (\d+)", re.DOTALL)


def error_class(code: str, text: str = "") -> type[ServerError]:
    """Return the class that stands for a gRPC status code, e.g. "UNAVAILABLE", or else for what Triton wrote."""
    if _RESTRICTED_TEXT in text:
        return AccessDenied  # Triton's own code for it is UNAVAILABLE, but asking again does not help
    if code in _BY_CODE:
        return _BY_CODE[code]
    return Unavailable if _UNAVAILABLE_TEXT.search(text) else ServerError


def is_leaving(error: ServerError) -> bool:
    """Whether `error` says that its server is about to stop, and will soon get no requests any more."""
    return isinstance(error, Unavailable) and _LEAVING_TEXT in str(error)


def from_error_text(text: str, *, request_id: str = "", received: Sequence[Delta] = ()) -> ServerError:
    """Return the error that a text out of a stream stands for.

    The text is `CODE: what was wrong`, perhaps after prefixes of Triton such as "in ensemble 'video_llava', ".
    Triton's own refusals (a missing tensor, a wrong type) have no code: most become a plain `ServerError`.
    """
    coded = _CODED_TEXT.search(text)
    code, message = coded.groups() if coded else ("", text)
    kind, message = error_class(code, text), message.strip()
    lengths = _CONTEXT_TEXT.search(message) if kind is InvalidRequest else None
    if lengths is None:
        return kind(message, request_id=request_id, received=received)
    num_positions, max_positions = map(int, lengths.groups())
    return ContextFull(
        message, num_positions=num_positions, max_positions=max_positions, request_id=request_id, received=received
    )
