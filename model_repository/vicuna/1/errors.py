"""Why a request is not answered. Streamed errors carry no status code, so each text begins with one.

RequestError
├── InvalidArgument   the caller's mistake: says what, with which value, what is allowed
├── Unavailable       not now: try again, perhaps at another replica
├── Cancelled         the caller went away or asked to stop
├── DeadlineExceeded  the request's own timeout passed
└── Internal          ours: a defect or a dead engine
"""

# A value that is named may be as long as a request.
_MAX_CHARACTERS = 1500


class RequestError(Exception):
    """Root. `str()` is the text for the client: `CODE: what was wrong`, the code being gRPC's name."""

    code = "UNKNOWN"

    def __str__(self) -> str:
        text = f"{self.code}: {super().__str__()}"
        return text if len(text) <= _MAX_CHARACTERS else f"{text[:_MAX_CHARACTERS]}… ({len(text):,} characters)"


class InvalidArgument(RequestError):
    """The request cannot be answered as it is."""

    code = "INVALID_ARGUMENT"


class Unavailable(RequestError):
    """The engine cannot take the request now."""

    code = "UNAVAILABLE"


class Cancelled(RequestError):
    """The generation was stopped on the caller's behalf."""

    code = "CANCELLED"


class DeadlineExceeded(RequestError):
    """The request's `timeout` passed before the answer was complete."""

    code = "DEADLINE_EXCEEDED"


class Internal(RequestError):
    """The server failed."""

    code = "INTERNAL"
