"""Emptying a server before its stop: it takes nothing new, and what it has begun it ends.

Triton itself refuses an ensemble's further steps from SIGTERM on, so that answers under way would break. Hence this
comes before SIGTERM: by a file in the folder VIDEO_LLAVA_RUNTIME_DIR, which the server's models watch (they say how:
model_repository/vicuna/1/runtime.py, intake/1/gate.py).

Before that it can be announced: the server is not ready any more, yet takes requests as ever. Whoever asks its health
learns it in time to send no request that would be refused.
"""

import os
import struct
import time
from pathlib import Path

_POLL_SECONDS = 0.25
# So many looks in a row must find nothing: the last response may still be on its way.
_NUM_EMPTY_LOOKS = 2
# A request cancelled in the encoders never reaches the language model. Nobody can tell it from one that is late, but
# by waiting.
_LATE_SECONDS = 10.0
# For the errors of what is ended to reach its callers.
_GRACE_SECONDS = 5.0
_OCCUPANCY = struct.Struct("<qqqd")
_NUM_PASSED = struct.Struct("<q")


def announce(folder: Path, *, seconds: float) -> None:
    """Let the server whose VIDEO_LLAVA_RUNTIME_DIR is `folder` say that it is not ready; blocks for `seconds`."""
    (folder / "leaving").touch()
    time.sleep(seconds)


def drain(folder: Path, *, timeout_seconds: float) -> bool:
    """Empty the server whose VIDEO_LLAVA_RUNTIME_DIR is `folder`; blocks until nothing is in flight.

    What still runs after `timeout_seconds` is ended with an error. Returns whether nothing had to be.
    """
    ends_at = time.monotonic() + timeout_seconds
    _write_whole(folder / "drain", repr(ends_at))
    in_flight = _InFlight(folder)
    num_empty_looks = 0
    while num_empty_looks < _NUM_EMPTY_LOOKS:
        if time.monotonic() > ends_at + _GRACE_SECONDS:
            return False
        num_empty_looks = 0 if in_flight.look() else num_empty_looks + 1
        time.sleep(_POLL_SECONDS)
    return time.monotonic() <= ends_at


class _InFlight:
    """Looks at what the models have written of themselves; models that write nothing have nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._num_arrived = 0
        self._arrived_at = time.monotonic()

    def look(self) -> bool:
        """Whether anything is in flight."""
        (num_passed,) = self._read("intake", _NUM_PASSED)
        num_in_model, num_arrived, _, _ = self._read("vicuna", _OCCUPANCY)
        if num_arrived != self._num_arrived:
            self._num_arrived, self._arrived_at = num_arrived, time.monotonic()
        is_late = time.monotonic() - self._arrived_at > _LATE_SECONDS
        return num_in_model > 0 or (num_passed != num_arrived and not is_late)

    def _read(self, name: str, layout: struct.Struct) -> tuple:
        try:
            content = (self._folder / name).read_bytes()
        except FileNotFoundError:
            content = b""
        return layout.unpack(content or bytes(layout.size))


def _write_whole(path: Path, text: str) -> None:
    # By a rename: the models look at any moment.
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="ascii")
    draft.replace(path)
