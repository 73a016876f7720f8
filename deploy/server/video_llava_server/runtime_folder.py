"""What the server's processes tell each other, by small files in the folder that VIDEO_LLAVA_RUNTIME_DIR names.

    leaving    `video-llava-drain` writes it: a drain will follow, so the server is not ready, but serves
    drain      `video-llava-drain` writes it: take nothing new, and end what is left at the time it holds
    occupancy  `vicuna` writes it: how full it is. `intake` refuses early by it, the drain waits by it
    passed     `intake` writes it: how many requests went on to the encoders

Without the variable nothing is written or read. Times are this machine's monotonic clock, in seconds.
"""

import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .errors import Unavailable

VARIABLE = "VIDEO_LLAVA_RUNTIME_DIR"


_OCCUPANCY = struct.Struct("<qqqd")


class Occupancy(NamedTuple):
    """How full the language model is."""

    num_in_flight: int = 0
    num_arrived: int = 0
    """requests that came through the ensemble so far"""
    max_requests: int = 0
    """0: the model has not loaded yet"""
    retry_after_seconds: float = 0.0


class RuntimeFolder:
    """The folder, made if need be; with `None` it is empty and keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        if path is not None:
            path.mkdir(parents=True, exist_ok=True)

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> "RuntimeFolder":
        """Take the folder that the environment names."""
        name = environment.get(VARIABLE)
        return cls(Path(name) if name else None)

    def write_occupancy(self, occupancy: Occupancy) -> None:
        """Say how full the language model is."""
        self._write("occupancy", _OCCUPANCY.pack(*occupancy))

    def read_occupancy(self) -> Occupancy:
        """Return what the language model has said last."""
        content = self._read("occupancy")
        return Occupancy._make(_OCCUPANCY.unpack(content)) if content else Occupancy()

    def write_num_passed(self, num_passed: int) -> None:
        """Say how many requests went on to the encoders."""
        self._write("passed", str(num_passed).encode())

    def read_num_passed(self) -> int:
        """Return how many requests went on to the encoders."""
        return int(self._read("passed") or 0)

    def announce_drain(self) -> None:
        """Say that a drain will follow."""
        self._write("leaving", b"")

    def begin_drain(self, *, ends_at: float) -> None:
        """Refuse new requests from now on, and end what still runs at `ends_at`."""
        self._write("drain", repr(ends_at).encode())

    def forget_drain(self) -> None:
        """Where a container starts again in its old folder, the drain was of the run before."""
        for name in ("leaving", "drain"):
            if self._path is not None:
                (self._path / name).unlink(missing_ok=True)

    @property
    def drain_ends_at(self) -> float | None:
        """When what still runs is ended; None while there is no drain."""
        content = self._read("drain")
        return float(content) if content else None

    @property
    def is_leaving(self) -> bool:
        """Whether there is a drain, or will be one soon."""
        return self.drain_ends_at is not None or self._read("leaving") is not None

    @property
    def is_drain_over(self) -> bool:
        """Whether what still runs is to be ended now."""
        ends_at = self.drain_ends_at
        return ends_at is not None and time.monotonic() >= ends_at

    def refuse_while_draining(self) -> None:
        """Raise Unavailable while there is a drain."""
        if self.drain_ends_at is not None:
            raise Unavailable("this server is draining before its stop: ask another server")

    def _write(self, name: str, content: bytes) -> None:
        # By a rename: others read at any moment.
        if self._path is not None:
            draft = self._path / f"{name}.{os.getpid()}"
            draft.write_bytes(content)
            draft.replace(self._path / name)

    def _read(self, name: str) -> bytes | None:
        try:
            return None if self._path is None else (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
