"""What the server's processes tell each other, by small files in the folder that VIDEO_LLAVA_RUNTIME_DIR names.

    leaving    `video-llava-drain` writes it: a drain will follow, so the server is not ready, but serves
    drain      `video-llava-drain` writes it: take nothing new, and end what is left at the time it holds
    occupancy  `vicuna` writes it: how full it is. `intake` refuses early by it, the drain waits by it
    tickets    `intake` writes it: the requests that went on to the encoders
    features   `feature_store` writes it: what it has
    key        `intake` writes it at its start, readable by this user only: it makes tickets genuine (tickets.py)

Without the variable it is a folder of this user's in the temporary folder, named by the process that started the
models, which is the same for all models of a server; `video-llava-drain` needs the variable. Times are this machine's
monotonic clock, in seconds.
"""

import os
import secrets
import struct
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from .errors import Unavailable
from .tickets import LAYOUT, Ticket

VARIABLE = "VIDEO_LLAVA_RUNTIME_DIR"

_OCCUPANCY = struct.Struct("<qqqdQddQdd")
_WINDOW = struct.Struct("<QQ")


class Arrival(NamedTuple):
    """A request that came out of an encoder."""

    serial: int = 0
    seconds: float = 0.0
    """when"""
    silence_seconds: float = 10.0
    """the encoder has nothing to do if nothing comes out for so long"""


class Occupancy(NamedTuple):
    """How full the language model is."""

    num_in_flight: int = 0
    num_ending: int = 0
    """not in flight any more, but Triton does not have their last response yet"""
    max_requests: int = 0
    """0: the model has not loaded yet"""
    retry_after_seconds: float = 0.0
    last_new: tuple[Arrival, Arrival] = (Arrival(), Arrival())
    """for each encoder: the latest ticket with frames that were not seen before"""
    arrived: tuple[int, ...] = ()
    """the serials that arrived last, of tickets with frames"""

    def pack(self) -> bytes:
        """Return the file's content."""
        video, image = self.last_new
        head = _OCCUPANCY.pack(*self[:4], *video, *image)
        return head + struct.pack(f"<{len(self.arrived)}Q", *self.arrived)

    @classmethod
    def unpack(cls, content: bytes) -> "Occupancy":
        """Read what `pack` made."""
        num_in_flight, num_ending, max_requests, retry_after_seconds, *encoders = _OCCUPANCY.unpack_from(content)
        arrived = struct.unpack(f"<{(len(content) - _OCCUPANCY.size) // 8}Q", content[_OCCUPANCY.size :])
        last_new = Arrival._make(encoders[:3]), Arrival._make(encoders[3:])
        return cls(num_in_flight, num_ending, max_requests, retry_after_seconds, last_new, arrived)


class Window(NamedTuple):
    """What stays in the feature store for now: entries are numbered, and go in that order."""

    first: int = 0
    next: int = 0
    """the number of the next one"""


class RuntimeFolder:
    """The folder, made if need be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.mkdir(mode=0o700, parents=True, exist_ok=True)

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> "RuntimeFolder":
        """Take the folder that the environment names, or this server's own. Raises PermissionError."""
        if name := environment.get(VARIABLE):
            return cls(Path(name))
        path = Path(tempfile.gettempdir()) / f"video-llava-{os.getppid()}"
        folder = cls(path)
        if path.is_symlink() or path.stat().st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to somebody else: name a folder in {VARIABLE}")
        return folder

    def make_key(self) -> bytes:
        """Replace the key of the run before, if any; return the new one."""
        key = secrets.token_bytes(32)
        self._write("key", key)
        return key

    def read_key(self) -> bytes:
        """Return the key."""
        return (self._path / "key").read_bytes()

    def write_occupancy(self, occupancy: Occupancy) -> None:
        """Say how full the language model is."""
        self._write("occupancy", occupancy.pack())

    def read_occupancy(self) -> Occupancy:
        """Return what the language model has said last."""
        content = self._read("occupancy")
        return Occupancy.unpack(content) if content else Occupancy()

    def write_tickets(self, tickets: Iterable[Ticket]) -> None:
        """Say which requests went on to the encoders."""
        self._write("tickets", b"".join(ticket.pack() for ticket in tickets))

    def read_tickets(self) -> list[Ticket]:
        """Return the requests that went on to the encoders."""
        return [Ticket(*values) for values in LAYOUT.iter_unpack(self._read("tickets") or b"")]

    def write_window(self, window: Window) -> None:
        """Say what is in the feature store."""
        self._write("features", _WINDOW.pack(*window))

    def read_window(self) -> Window:
        """Return what the feature store has said last."""
        content = self._read("features")
        return Window(*_WINDOW.unpack(content)) if content else Window()

    def announce_drain(self) -> None:
        """Say that a drain will follow."""
        self._write("leaving", b"")

    def begin_drain(self, *, ends_at: float) -> None:
        """Refuse new requests from now on, and end what still runs at `ends_at`."""
        self._write("drain", repr(ends_at).encode())

    def forget_drain(self) -> None:
        """Where a container starts again in its old folder, the drain was of the run before."""
        for name in ("leaving", "drain"):
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
            raise Unavailable("this server is draining before its stop: ask another server", reason="draining")

    def _write(self, name: str, content: bytes) -> None:
        # By a rename: others read at any moment.
        draft = self._path / f"{name}.{os.getpid()}"
        with open(draft, "wb", opener=_open_private) as file:
            file.write(content)
        draft.replace(self._path / name)

    def _read(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)
