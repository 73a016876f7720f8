"""What is known about one request, for metrics and the access log."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

from .keys import Key

log = logging.getLogger("video_llava_gateway.access")


@dataclass
class Record:
    """One request.

    Attributes:
        key_name: Empty without keys.
        status: HTTP's; 499: the caller left. Of a stream that failed, the status of its error.
        num_media: How many were given.
        first_token_seconds: From the request's head to its first token.
    """

    method: str
    path: str
    client: str
    key_name: str = ""
    key: Key | None = field(default=None, repr=False)
    request_id: str = ""
    status: int = 0
    error: str = ""
    is_stream: bool = False
    num_media: int = 0
    decode_seconds: float = 0.0
    first_token_seconds: float | None = None
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    started: float = field(default_factory=time.perf_counter, repr=False)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.started

    def write(self, *, as_json: bool) -> None:
        """Write the request's line of the access log: no content, no key."""
        first = self.first_token_seconds
        values: dict[str, Any] = {
            "client": self.client,
            "key": self.key_name,
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path[:200],
            "status": self.status,
            "seconds": round(self.seconds, 4),
            "stream": self.is_stream,
            "media": self.num_media,
            "decode_seconds": round(self.decode_seconds, 4),
            "first_token_seconds": None if first is None else round(first, 4),
            "prompt_tokens": self.num_prompt_tokens,
            "cached_tokens": self.num_cached_tokens,
            "generated_tokens": self.num_generated_tokens,
            "error": self.error[:200],
        }
        if as_json:
            log.info("%s", json.dumps({"time": round(time.time(), 3), **values}))
        else:
            # As JSON, a value cannot begin a line of its own.
            log.info(
                " ".join(f"{name}={json.dumps(value)}" for name, value in values.items() if value not in ("", None))
            )
