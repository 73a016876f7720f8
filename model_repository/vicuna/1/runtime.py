"""What the server's processes tell each other, by small files in the folder that VIDEO_LLAVA_RUNTIME_DIR names.

    leaving  `video-llava-drain` writes it: this server is about to drain, so it is not ready, but serves
    drain    so is this: take nothing new, and end what is left at the time it holds
    vicuna   written here: how full the language model is. `intake` refuses early by it, the drain waits by it
    intake   how many requests went on to the encoders

Without the variable nothing is written or read. Times are this machine's monotonic clock, in seconds.
"""

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from .errors import Unavailable

_OCCUPANCY = struct.Struct("<qqqd")


def find_folder(environment: Mapping[str, str]) -> Path | None:
    """Return the folder, made if need be; None where there is to be none."""
    if not (name := environment.get("VIDEO_LLAVA_RUNTIME_DIR")):
        return None
    Path(name).mkdir(parents=True, exist_ok=True)
    return Path(name)


class Drain:
    """Whether this server is being emptied before its stop."""

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / "drain"
        self._announcement = None if folder is None else folder / "leaving"
        # Where a container starts again in its old folders, the drain was of the run before.
        for path in (self._path, self._announcement):
            if path is not None:
                path.unlink(missing_ok=True)

    @property
    def is_announced(self) -> bool:
        """Whether there is a drain, or is to be one soon."""
        return self.ends_at is not None or (self._announcement is not None and self._announcement.exists())

    @property
    def ends_at(self) -> float | None:
        """When what is still running is ended; None while there is no drain."""
        if self._path is None:
            return None
        try:
            return float(self._path.read_text(encoding="ascii"))
        except FileNotFoundError:
            return None

    @property
    def is_over(self) -> bool:
        """Whether that time has come."""
        ends_at = self.ends_at
        return ends_at is not None and time.monotonic() >= ends_at

    def check(self) -> None:
        """Raise Unavailable while there is a drain."""
        if self.ends_at is not None:
            raise Unavailable("this server is draining before its stop: ask another server")


class OccupancyFile:
    """How full the language model is, for others to read."""

    def __init__(self, folder: Path | None, *, max_requests: int) -> None:
        self._max_requests = max_requests
        self._file = None if folder is None else os.open(folder / "vicuna", os.O_WRONLY | os.O_CREAT, 0o600)
        self.write(num_in_flight=0, num_arrived=0, wait_seconds=0.0)

    def write(self, *, num_in_flight: int, num_arrived: int, wait_seconds: float) -> None:
        """Say how many are in the model, how many came through the ensemble so far, and when to try again if full."""
        if self._file is not None:
            os.pwrite(self._file, _OCCUPANCY.pack(num_in_flight, num_arrived, self._max_requests, wait_seconds), 0)

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
