"""Why a request is not answered. Streamed errors carry no status code, so each text begins with one.

RequestError
├── InvalidArgument   the caller's mistake: says what, with which value, what is allowed
├── Unavailable       not now: try again, perhaps at another replica
├── Cancelled         the caller has gone or asked to stop
├── DeadlineExceeded  the request's own timeout passed
└── Internal          the server's failure
"""

# A value that is named may be as long as a request.
_MAX_CHARACTERS = 500


class RequestError(Exception):
    """Root. `str()` is the text for the client: `CODE: what was wrong`, the code being gRPC's name."""

    code = "UNKNOWN"
    triton_code = "INTERNAL"
    """the attribute of Triton's TritonError"""
    reason = ""
    """in counters, beside the code"""

    def __str__(self) -> str:
        text = f"{self.code}: {super().__str__()}"
        if len(text) <= _MAX_CHARACTERS:
            return text
        end = f"… ({len(text):,} characters)"
        return text[: _MAX_CHARACTERS - len(end)] + end

    @staticmethod
    def parse(text: str) -> "RequestError":
        """Make the error whose `str()` is `text`; Internal where the code is unknown."""
        code, _, what = text.partition(": ")
        kind = next((kind for kind in RequestError.__subclasses__() if kind.code == code), None)
        # Not by the constructor: the text has its reason already.
        return kind.__new__(kind, what) if kind else Internal(text)


class InvalidArgument(RequestError):
    """The request cannot be answered as it is."""

    code = "INVALID_ARGUMENT"
    triton_code = "INVALID_ARG"


class Unavailable(RequestError):
    """The server cannot take the request now. The text ends with `reason=…`, one of REASONS."""

    code = triton_code = "UNAVAILABLE"
    REASONS = ("full", "draining", "engine_dead", "dropped")

    def __init__(self, text: str, *, reason: str, retry_after_seconds: float | None = None) -> None:
        text += f", reason={reason}"
        if retry_after_seconds is not None:
            text += f", retry_after_seconds={retry_after_seconds:.1f}"
        super().__init__(text)
        self.reason = reason


class Cancelled(RequestError):
    """The generation was stopped on the caller's behalf."""

    code = triton_code = "CANCELLED"


class DeadlineExceeded(RequestError):
    """The request's `timeout` passed before the answer was complete."""

    code = "DEADLINE_EXCEEDED"


class Internal(RequestError):
    """The server failed."""

    code = "INTERNAL"


KINDS = [
    (kind.code, reason)
    for kind in RequestError.__subclasses__()
    for reason in (Unavailable.REASONS if kind is Unavailable else ("",))
]
"""Code and reason of every error."""
