"""How much may be in the model at once: past it a request is refused, so that memory has a ceiling."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from .errors import InvalidArgument, Unavailable
from .runtime_folder import Arrival, Occupancy, RuntimeFolder
from .tickets import NEW_FRAMES, Ticket

MAX_COMPILES = 4
"""Constraints that are compiled at once (grammars.py), each with up to `max_compile_bytes`."""
DEFAULT_MAX_REQUESTS = 256
"""For exports without a profile."""
# How much the newest interval counts in the average one.
_SMOOTHING = 0.2
_MIN_WAIT_SECONDS, _MAX_WAIT_SECONDS = 0.1, 30.0
_NUM_ENCODES = 8
# An encoder from which nothing comes for three times its slowest recent work has nothing to do.
_SILENCE_FACTOR = 3
_MIN_SILENCE_SECONDS, _MAX_SILENCE_SECONDS = 1.0, 30.0


@dataclass(frozen=True, kw_only=True)
class AdmissionLimits:
    """Ceilings over all requests that wait or are generated: their number, and the bytes of their embeddings."""

    max_requests: int
    max_prompt_bytes: int
    """a prompt's features lie once in shared memory, its embeddings in the engine once for each sequence"""

    @classmethod
    def from_config(cls, config: Mapping[str, Mapping[str, str]], profile: Mapping[str, Any]) -> "AdmissionLimits":
        """Read the `parameters` of config.pbtxt as Triton hands them over; `profile` is the manifest's.

        Raises ValueError, naming the parameter.
        """
        texts = {name: config.get(name, {}).get("string_value", "") for name in cls.__dataclass_fields__}
        if texts["max_requests"] == "profile":
            texts["max_requests"] = str(profile.get("max_requests", DEFAULT_MAX_REQUESTS))
        return cls(**{name: positive(name, text) for name, text in texts.items()})


def positive(name: str, text: str) -> int:
    """Read one of the `parameters` of config.pbtxt. Raises ValueError, naming it."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"parameter {name} of vicuna/config.pbtxt is {text!r}, expected a whole number above 0")
    return int(text)


class Admission:
    """Counts what is in the model. Any thread may call."""

    def __init__(self, limits: AdmissionLimits, folder: RuntimeFolder) -> None:
        self._limits = limits
        self._folder = folder
        self._lock = threading.Lock()
        self._bytes_by_id: dict[str, int] = {}
        self._ending: set[str] = set()
        self._last_new = (Arrival(), Arrival())
        # How long the encoders took for the last few requests with new frames.
        self._encode_seconds = deque[float](maxlen=_NUM_ENCODES), deque[float](maxlen=_NUM_ENCODES)
        # More than can be on their way (gate.py).
        self._arrived: deque[int] = deque(maxlen=2 * limits.max_requests)
        self._left_at = time.monotonic()
        self._seconds_between_ends = _MIN_WAIT_SECONDS
        self._publish()

    def enter(self, generation_id: str, ticket: Ticket | None) -> None:
        """Take a place; `ticket` is None for who did not come through the ensemble. Raises Unavailable."""
        with self._lock, self._publishing():
            if ticket is not None:
                self._note(ticket)
            num_requests = len(self._bytes_by_id)
            if num_requests >= self._limits.max_requests:
                raise self._refusal(
                    f"{num_requests} requests are in flight, max_requests is {self._limits.max_requests}"
                )
            self._bytes_by_id[generation_id] = 0

    def _note(self, ticket: Ticket) -> None:
        if any(ticket.media):
            self._arrived.append(ticket.serial)
        video, image = (
            _next_arrival(last, ticket, recent) if frames == NEW_FRAMES and ticket.serial > last.serial else last
            for frames, last, recent in zip(ticket.media, self._last_new, self._encode_seconds, strict=True)
        )
        self._last_new = video, image

    def charge(self, generation_id: str, num_bytes: int, *, num_sequences: int) -> None:
        """Add the bytes of its prompt's embeddings. Raises InvalidArgument or Unavailable."""
        total, limit = num_bytes * (1 + num_sequences), self._limits.max_prompt_bytes
        with self._lock:
            held = sum(self._bytes_by_id.values())
            if total > limit and num_sequences > 1:
                raise InvalidArgument(
                    f"sampling_parameters: n is {num_sequences}, for which the prompt takes {total:,} bytes, "
                    f"max_prompt_bytes is {limit:,}: ask for at most {max(1, limit // num_bytes - 1)} at a time"
                )
            # One sequence alone always fits, or it would never be answered.
            if held and held + total > limit:
                raise self._refusal(
                    f"prompts of {held:,} bytes are in flight and this one has {total:,}, max_prompt_bytes is {limit:,}"
                )
            self._bytes_by_id[generation_id] = total

    def leave(self, generation_id: str) -> None:
        """Give the place back, before the last response is sent; harmless for who has none."""
        with self._lock, self._publishing():
            if self._bytes_by_id.pop(generation_id, None) is None:
                return
            self._ending.add(generation_id)
            now = time.monotonic()
            self._seconds_between_ends += _SMOOTHING * (now - self._left_at - self._seconds_between_ends)
            self._left_at = now

    def end(self, generation_id: str) -> None:
        """Forget it, once Triton has its last response: a drain waits until then."""
        with self._lock, self._publishing():
            self._ending.discard(generation_id)

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """Tell others what the block has changed."""
        try:
            yield
        finally:
            self._publish()

    def _publish(self) -> None:
        occupancy = Occupancy(
            num_in_flight=len(self._bytes_by_id),
            num_ending=len(self._ending),
            max_requests=self._limits.max_requests,
            retry_after_seconds=self._wait_seconds,
            last_new=self._last_new,
            arrived=tuple(self._arrived),
        )
        self._folder.write_occupancy(occupancy)

    @property
    def _wait_seconds(self) -> float:
        return min(max(self._seconds_between_ends, _MIN_WAIT_SECONDS), _MAX_WAIT_SECONDS)

    def _refusal(self, what: str) -> Unavailable:
        return Unavailable(f"{what}: try again", reason="full", retry_after_seconds=self._wait_seconds)


def _next_arrival(last: Arrival, ticket: Ticket, recent: deque[float]) -> Arrival:
    now = time.monotonic()
    recent.append(now - max(last.seconds, ticket.received_seconds))
    silence = min(max(_SILENCE_FACTOR * max(recent), _MIN_SILENCE_SECONDS), _MAX_SILENCE_SECONDS)
    return Arrival(ticket.serial, now, silence)
