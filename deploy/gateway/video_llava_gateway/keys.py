"""API keys: a file of their hashes, read again when it changes, and what each key may do at a time."""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
import tomllib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from .errors import ApiError

log = logging.getLogger("video_llava_gateway")

_MINUTE = 60.0
_CHECK_SECONDS = 1.0
_PREFIX = "vl-"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Key(BaseModel):
    """One key of the file: `NAME = {sha256 = "…", max_running = 8}`. None is no limit.

    Attributes:
        sha256: Of the key. A key has 256 random bits, so its hash needs no salt.
        max_running: Requests at once.
        max_per_minute: Requests in any minute.
        max_body_bytes: Of one request.
        max_files_bytes: Of all its files.
        images_as_video: As the gateway's own setting.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    max_running: int | None = Field(None, ge=1)
    max_per_minute: int | None = Field(None, ge=1)
    max_body_bytes: int | None = Field(None, ge=1)
    max_files_bytes: int | None = Field(None, ge=1)
    images_as_video: bool | None = None


_KEYS = TypeAdapter(dict[Name, Key])


def new_key() -> tuple[str, str]:
    """Return a new key and its hash."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


@dataclass
class Usage:
    """What one key does."""

    num_running: int = 0
    started: deque[float] = field(default_factory=deque)


class KeyFile:
    """The keys of a file. A change counts within a second; a file that cannot be read changes nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._usage: dict[str, Usage] = {}
        self._checked_at = time.monotonic()
        self._stamp = self._stamp_now()
        self._by_hash = self._read()

    def find(self, authorization: str) -> tuple[str, Key]:
        """Return the name and the key of an `Authorization` header; ApiError 401 if there is none."""
        self._read_again_if_changed()
        scheme, _, token = authorization.partition(" ")
        found = self._by_hash.get(hashlib.sha256(token.strip().encode()).hexdigest())
        if scheme.lower() != "bearer" or found is None:
            what = "this API key is not known" if authorization else "an API key is needed"
            raise ApiError(401, f"{what}: send Authorization: Bearer KEY", code="invalid_api_key")
        return found

    @contextmanager
    def admit(self, name: str, key: Key) -> Iterator[None]:
        """Count a request; ApiError 429 if the key has too many."""
        usage, now = self._usage.setdefault(name, Usage()), time.monotonic()
        while usage.started and now - usage.started[0] >= _MINUTE:
            usage.started.popleft()
        if key.max_running is not None and usage.num_running >= key.max_running:
            raise _too_many(f"key {name!r} has {usage.num_running} requests at once, its most", 1.0)
        if key.max_per_minute is not None and len(usage.started) >= key.max_per_minute:
            oldest = usage.started[-key.max_per_minute]
            raise _too_many(f"key {name!r} had {key.max_per_minute} requests in a minute", oldest + _MINUTE - now)
        if key.max_per_minute is not None:
            usage.started.append(now)
        usage.num_running += 1
        try:
            yield
        finally:
            usage.num_running -= 1

    def _read_again_if_changed(self) -> None:
        if time.monotonic() - self._checked_at < _CHECK_SECONDS:
            return
        self._checked_at = time.monotonic()
        try:
            if (stamp := self._stamp_now()) != self._stamp:
                self._stamp = stamp
                self._by_hash = self._read()
                log.info("%s: %d keys", self._path, len(self._by_hash))
        except (OSError, ValueError) as exc:
            log.error("%s: cannot be read, the keys stay as they are: %s", self._path, exc)

    def _stamp_now(self) -> tuple[int, ...]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _read(self) -> dict[str, tuple[str, Key]]:
        try:
            keys = _KEYS.validate_python(tomllib.loads(self._path.read_text(encoding="utf-8")))
        except ValidationError as exc:
            error = exc.errors()[0]
            raise ValueError(f"{'.'.join(map(str, error['loc']))}: {error['msg']}") from exc
        return {key.sha256: (name, key) for name, key in keys.items()}


def _too_many(message: str, seconds: float) -> ApiError:
    return ApiError(429, f"{message}: ask later", code="rate_limit_exceeded", retry_after_seconds=seconds)
