"""Whether a request may go on to the encoders: not while the server drains, and not where the model is full already.

The language model counts what is in it and refuses what is too much, but only after the encoders' work. It tells how
full it is by a file (vicuna/1/runtime.py); those on their way to it are counted here. A BLS request instead of the
file hangs Triton 24.10 under load.
"""

import os
import struct
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

# As vicuna/1/runtime.py writes it: requests in the model, arrived there so far, at most there; seconds to wait if full.
_OCCUPANCY = struct.Struct("<qqqd")
_NUM_PASSED = struct.Struct("<q")
# Whoever has not reached the language model by then was cancelled, or failed, in the encoders.
_LOST_AFTER_SECONDS = 60.0


class Unavailable(Exception):
    """Not now; `str()` begins with the code, as streamed errors carry none of their own."""

    def __str__(self) -> str:
        return f"UNAVAILABLE: {super().__str__()}"


def find_folder(environment: Mapping[str, str]) -> Path | None:
    """Return the folder that VIDEO_LLAVA_RUNTIME_DIR names, made if need be; None where it names none."""
    if not (name := environment.get("VIDEO_LLAVA_RUNTIME_DIR")):
        return None
    Path(name).mkdir(parents=True, exist_ok=True)
    return Path(name)


class OpenGate:
    """Lets all requests pass: where there is no folder."""

    def enter(self) -> None:
        """Let one request pass."""

    def close(self) -> None:
        """Nothing is open."""


class Gate:
    """Lets requests pass while there is room for them. For one thread."""

    def __init__(self, folder: Path) -> None:
        self._drain = folder / "drain"
        self._occupancy = os.open(folder / "vicuna", os.O_RDONLY | os.O_CREAT, 0o600)
        self._passed = os.open(folder / "intake", os.O_WRONLY | os.O_CREAT, 0o600)
        self._passed_at: deque[float] = deque()
        self._num_passed = 0
        self._num_arrived = 0
        self._note_passed()

    def enter(self) -> None:
        """Let one request pass. Raises Unavailable."""
        if self._drain.exists():
            raise Unavailable("this server is draining before its stop: ask another server")
        self._check_room()
        self._passed_at.append(time.monotonic())
        self._num_passed += 1
        self._note_passed()

    def close(self) -> None:
        """Let go of the files."""
        os.close(self._occupancy)
        os.close(self._passed)

    def _note_passed(self) -> None:
        os.pwrite(self._passed, _NUM_PASSED.pack(self._num_passed), 0)

    def _check_room(self) -> None:
        content = os.pread(self._occupancy, _OCCUPANCY.size, 0)
        if not content:
            return  # the model has not loaded yet
        num_in_model, num_arrived, max_requests, wait_seconds = _OCCUPANCY.unpack(content)
        self._forget_arrived(num_arrived)
        num_requests = num_in_model + len(self._passed_at)
        if num_requests >= max_requests:
            raise Unavailable(
                f"{num_requests} requests are in flight, max_requests is {max_requests}: try again, "
                f"retry_after_seconds={wait_seconds:.1f}"
            )

    def _forget_arrived(self, num_arrived: int) -> None:
        num_gone = num_arrived - self._num_arrived
        self._num_arrived = num_arrived
        lost_before = time.monotonic() - _LOST_AFTER_SECONDS
        while self._passed_at and (num_gone > 0 or self._passed_at[0] < lost_before):
            self._passed_at.popleft()
            num_gone -= 1
