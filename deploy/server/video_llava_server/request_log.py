"""The request log: one JSON line for each request that reaches the models, for audits. Off unless a folder is named.

`intake` writes what it refuses, and what went on to the encoders and never came out, into DIR/intake.jsonl. `vicuna`
writes everything else into DIR/vicuna.jsonl. A request has one line, when it ends. README.md lists the fields.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np

from . import triton
from .errors import InvalidArgument, RequestError
from .log_file import VARIABLE, LogFile, LogOptions
from .manifest import Manifest
from .repository import CALLER_HEADER
from .tensors import FRAMES, text
from .tickets import Ticket

DROPPED = "video_llava:request_log_dropped_total"
DROPPED_TEXT = "Lines of the request log that were dropped: too many waited, or the disk was full"

_MAX_CHARACTERS = 2**16
_MAX_NAME_CHARACTERS = 256


class Entry:
    """What is known of one request."""

    def __init__(self, facts: dict[str, Any], *, with_texts: bool) -> None:
        self.facts = facts
        self.began = time.monotonic()
        self._with_texts = with_texts
        self._answers: dict[int, dict[str, Any]] = {}

    def came_through(self, ticket: Ticket) -> None:
        """Note that it was a request to the ensemble."""
        self.began = ticket.received_seconds
        self.facts |= {"called": "video_llava", "media": ticket.media_digest.hex()}

    def sampling(self, parameters: Mapping[str, object]) -> None:
        """Note the sampling parameters, as the caller wrote them."""
        self.facts["sampling"] = {name: self._shown(value) for name, value in parameters.items()}

    def add(self, outputs: Iterable[Any]) -> None:
        """Note what is sent: vLLM's CompletionOutputs, each with what is new of one sequence."""
        for new in outputs:
            answer = self._answers.setdefault(new.index, {"num_tokens": 0} | ({"text": ""} if self._with_texts else {}))
            answer["num_tokens"] += len(new.token_ids)
            answer["finish_reason"] = new.finish_reason
            if self._with_texts:
                answer["text"] += new.text

    def line(self, error: RequestError | None) -> dict[str, Any]:
        """Return all that is known, at the end."""
        outcome = {"outcome": "answered"} if error is None else {"outcome": error.code, "reason": error.reason}
        if error is not None and self._with_texts:
            outcome["error"] = str(error)
        seconds = round(time.monotonic() - self.began, 4)
        return {**self.facts, "answers": [*self._answers.values()], "seconds": seconds, **outcome}

    def _shown(self, value: object) -> object:
        if value is None or isinstance(value, bool | int | float):
            return value
        written = json.dumps(value)
        is_shown = self._with_texts and len(written) <= _MAX_CHARACTERS
        return value if is_shown else {"sha256": hashlib.sha256(written.encode()).hexdigest()}


class RequestLog:
    """The log of one model. `begin` and `end` do nothing where it is off."""

    def __init__(self, model: str, manifest: Manifest, environment: Mapping[str, str]) -> None:
        """Raises ValueError for a setting that cannot be read, OSError for a folder that cannot be written."""
        called = "video_llava" if model == "intake" else model
        self._facts = {"model": manifest.id, "model_digest": manifest.content_digest, "called": called}
        self._options = LogOptions.parse(environment[VARIABLE]) if environment.get(VARIABLE) else None
        self._file = _open(model, self._options) if self._options else None

    @property
    def num_dropped(self) -> int:
        """Lines that were not written."""
        return self._file.num_dropped if self._file else 0

    def begin(self, request: Any, tensors: Mapping[str, np.ndarray]) -> Entry | None:
        """Note what every request has; None where the log is off."""
        if self._options is None:
            return None
        facts = {**self._facts, "id": triton.request_id(request)[:_MAX_NAME_CHARACTERS], "caller": ""}
        with suppress(UnicodeDecodeError):
            facts["caller"] = _caller(request)
        prompt = ""
        with suppress(InvalidArgument):
            prompt = text(tensors, "text_input")
        # What is longer is refused, and would hold up the others.
        if len(prompt) <= _MAX_CHARACTERS:
            facts["prompt_sha256"] = hashlib.sha256(prompt.encode()).hexdigest()
        if self._options.texts:
            facts["prompt"] = prompt[:_MAX_CHARACTERS]
        return Entry(facts, with_texts=self._options.texts)

    def media_digest(self, frames: Iterable[np.ndarray]) -> bytes:
        """Return the digest that video_llava_client sends as x-video-llava-media-digest; b"" where the log is off."""
        if self._options is None:
            return b""
        media = [(name, array) for name, array in zip(FRAMES, frames, strict=True) if len(array)]
        digest = hashlib.blake2b(digest_size=16)
        for name, array in media:
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.digest() if media else b""

    def end(self, entry: Entry | None, error: RequestError | None) -> None:
        """Write the line of a request that has ended, with an error or the answer."""
        if entry is not None and self._file is not None:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            self._file.put({"time": now, **entry.line(error)})

    def close(self) -> None:
        """Write what waits."""
        if self._file is not None:
            self._file.close()


def _open(model: str, options: LogOptions) -> LogFile:
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not os.access(options.folder, os.W_OK | os.X_OK):
        raise PermissionError(f"the request log's folder {options.folder} cannot be written by this user")
    return LogFile(options.folder / f"{model}.jsonl", options, lambda what: triton.log_error(f"[{model}] {what}"))


def _caller(request: Any) -> str:
    """Return what the header says. A caller may send parameters of that name beside it: then the first and the last of
    all are shown, since Triton puts headers before or after them."""
    pairs = json.loads(request.parameters() or "{}", object_pairs_hook=list)
    named = [str(value)[:_MAX_NAME_CHARACTERS] for name, value in pairs or () if name.lower() == CALLER_HEADER]
    return ", ".join(dict.fromkeys([*named[:1], *named[-1:]]))
