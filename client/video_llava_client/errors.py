"""Every error this package raises.

VideoLlavaError
├── StateError               a client or a stream that is not open, or not finished
├── OptionError              an option's value
├── PromptError              the question or the prompt
├── MediaError               a video or an image; .source names it
│   ├── MediaNotFound        no such file (also FileNotFoundError)
│   ├── UnreadableMedia      not a media file, or damaged
│   ├── NoVideoStream        a media file without a video
│   ├── NoFrames             a video whose frames do not decode, or a time window without any
│   ├── MediaTooLarge        more pixels, bytes or seconds than `MediaLimits` allow
│   └── MediaTimedOut        not read and decoded in `MediaLimits.timeout_seconds` (also TimeoutError)
└── ServerError              the server or the way to it; .request_id, and .received: the deltas before the error
    ├── InvalidRequest       the server refused the request
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
    "UNAVAILABLE": Unavailable,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
    "CANCELLED": Cancelled,
    "INTERNAL": Internal,
}
_CODED_TEXT = re.compile(rf"\b({'|'.join(_BY_CODE)}): (.*)", re.DOTALL)


def error_class(code: str) -> type[ServerError]:
    """Return the class that stands for a gRPC status code, e.g. "UNAVAILABLE"."""
    return _BY_CODE.get(code, ServerError)


def from_error_text(text: str, *, request_id: str = "", received: Sequence[Delta] = ()) -> ServerError:
    """Return the error that a text out of a stream stands for.

    The text is `CODE: what was wrong`, perhaps after prefixes of Triton such as "in ensemble 'video_llava', ".
    Triton's own refusals (a missing tensor, a wrong type) have no code: those become a plain `ServerError`.
    """
    coded = _CODED_TEXT.search(text)
    code, message = coded.groups() if coded else ("", text)
    return error_class(code)(message.strip(), request_id=request_id, received=received)
