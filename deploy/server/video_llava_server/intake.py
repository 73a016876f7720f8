"""The model `intake`, the ensemble's first step: refuses what cannot be answered, and gives the rest a ticket.

`prompt_checks.py` checks requests, `gate.py` whether there is room, `tickets.py` makes the tickets.
"""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import triton
from .errors import KINDS, Cancelled, InvalidArgument, RequestError, Unavailable
from .gate import Gate
from .known_frames import KnownFrames
from .limits import model_folder, read_limits
from .lora import PARAMETER, check_name
from .manifest import Manifest
from .parameters import PRIORITY, as_priority, named
from .prompt_checks import PromptChecker
from .request_log import DROPPED, DROPPED_TEXT, Entry, RequestLog
from .runtime_folder import RuntimeFolder
from .tensors import FRAMES, NONCES, SAMPLING, strings, text
from .tickets import TicketOffice

REQUESTS = "video_llava:requests_total"
FAILED = "video_llava:requests_failed_total"
FAILED_TEXT = "Requests refused or ended without a (whole) answer, by gRPC's status code and a reason"
FAILED_LABELS = ("code", "reason")
NUM_FRAMES = {"video_frames": "video_llava:video_frames_total", "image_frames": "video_llava:image_frames_total"}
# Triton's cache counts requests without frames for an encoder as hits: these are requests with frames.
REQUESTS_WITH = {"video_frames": "video_llava:video_requests_total", "image_frames": "video_llava:image_requests_total"}
# What intake itself refuses, and what went on to the encoders and never came out.
_LOST = RequestError("it went on to the encoders and never came out: it was cancelled there, or an encoder failed")
_LOST.reason = "encoders"
_REFUSALS = [kind for kind in KINDS if kind[0] in (InvalidArgument.code, Unavailable.code, Cancelled.code)]


class TritonPythonModel:
    """What Triton's Python backend calls, from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the checkpoint's limits and its tokenizer."""
        repository = Path(args["model_repository"]).parent
        self._limits = read_limits(repository)
        self._checker = PromptChecker(self._limits, model_folder(repository))
        self._folder = RuntimeFolder.find(os.environ)
        self._gate = Gate(self._folder)
        self._tickets = TicketOffice(self._folder.make_key())
        self._known = KnownFrames()
        self._log = RequestLog("intake", Manifest.read(model_folder(repository)), os.environ)
        self._num_dropped = 0
        self._metrics = _declare_metrics(args)
        triton.say_loaded(args)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with frames for both encoders, or with why not."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        if list(request.requested_output_names()) == ["limits"]:
            return triton.response({"limits": strings([self._limits.to_json()])})
        self._metrics.increment(REQUESTS)
        tensors = triton.input_tensors(request)
        entry = self._log.begin(request, tensors)
        try:
            return triton.response(self._take(request, tensors, entry))
        except RequestError as exc:
            self._metrics.increment(FAILED, exc.code, exc.reason)
            self._log.end(entry, exc)
            return triton.response(exc)
        finally:
            self._count_lost()

    def _count_lost(self) -> None:
        for entry in self._gate.lost:
            self._metrics.increment(FAILED, _LOST.code, _LOST.reason)
            self._log.end(entry, _LOST)
        self._gate.lost.clear()
        if new := self._log.num_dropped - self._num_dropped:
            self._metrics.increment(DROPPED, by=new)
            self._num_dropped += new

    def _take(self, request: Any, tensors: dict[str, np.ndarray], entry: Entry | None) -> dict[str, np.ndarray]:
        received_seconds = time.monotonic()
        frames = self._checker.check_media(text(tensors, "text_input"), *map(tensors.get, FRAMES))
        written = (text(tensors, SAMPLING),) if SAMPLING in tensors else ()
        check_name(named(PARAMETER, *written, request.parameters()), self._limits.lora_names)
        priority = as_priority(named(PRIORITY, *written))
        if request.is_cancelled():
            raise Cancelled("the request was cancelled")
        window = self._folder.read_window()
        looks = [self._known.look(number, array, window) for number, array in enumerate(frames)]
        ticket = self._tickets.issue(received_seconds, *(state for state, _ in looks))
        self._gate.enter(ticket, entry, steps_back=priority > 0)
        ticket = ticket._replace(media_digest=self._log.media_digest(frames))
        if entry is not None:
            entry.came_through(ticket)
        checked = dict(zip(FRAMES, frames, strict=True))
        for name, array in checked.items():
            if len(array):
                self._metrics.increment(NUM_FRAMES[name], by=len(array))
                self._metrics.increment(REQUESTS_WITH[name])
        nonces = {name: strings([nonce]) for name, (_, nonce) in zip(NONCES, looks, strict=True)}
        return checked | nonces | {"ticket": strings([self._tickets.seal(ticket)])}

    def finalize(self) -> None:
        """End the request log and let go of Triton's metrics."""
        self._log.close()
        self._metrics.close()


def _declare_metrics(args: dict[str, str]) -> triton.Metrics:
    metrics = triton.Metrics(args)
    metrics.declare(REQUESTS, "Requests to the ensemble, refused ones too", triton.COUNTER)
    # The language model counts into the same family under its own label.
    metrics.declare(
        FAILED,
        FAILED_TEXT,
        triton.COUNTER,
        labels=FAILED_LABELS,
        values=[*_REFUSALS, (_LOST.code, _LOST.reason)],
    )
    metrics.declare(DROPPED, DROPPED_TEXT, triton.COUNTER)
    for tensor in FRAMES:
        metrics.declare(NUM_FRAMES[tensor], f"Frames for the encoders in {tensor}", triton.COUNTER)
        metrics.declare(REQUESTS_WITH[tensor], f"Requests with {tensor}, not refused", triton.COUNTER)
    return metrics
