"""Decoding in processes that can be killed."""

from __future__ import annotations

import math
import os
import queue
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import errors
from ..conventions import Conventions
from ..errors import (
    Cancelled,
    DeadlineExceeded,
    MediaError,
    MediaTimedOut,
    MediaTooLarge,
    OptionError,
    StateError,
    UnreadableMedia,
    VideoLlavaError,
)
from .medium import SharedMedium
from .process import DecoderProcess, ProcessDied

if TYPE_CHECKING:
    from ..limits import Budget, MediaLimits
    from ..sources import MediaFile
    from ..window import Window


_MAX_CORES = 2  # one decodes, one resizes
_NUMBER = int | float | None
_WAIT_SECONDS = 0.1  # until it is seen that a request was cancelled that has no process yet


class DecoderProcesses:
    """Processes that decode media from strangers: what a file does to its process, it does to no other.

    | Usage | |
    |---|---|
    | `VideoLlava(url, isolated=True)` | the client's own, as many as cores |
    | `VideoLlava(url, isolated=processes)` | for several clients; close it after them |
    | `Clip.load("clip.mp4", size=224, decoders=processes)` | without a client; `load_image` too |

    They start when they are needed, are used again, and end with this process. A medium that takes too long, too much
    memory or too much CPU time, or that crashes its process, fails alone. Processes on Windows have a time limit only,
    those on macOS no memory limit. Each has its own memory and no environment; they are no sandbox: they can read
    what this process can.

    Args:
        num_processes: The most at a time; None: as many as cores.
        max_memory_bytes: For one medium, above what a new process has; None is no limit.
        max_cpu_seconds: For one medium; None: twice `MediaLimits.timeout_seconds`.

    Raises:
        OptionError: A value is not above 0.
    """

    def __init__(
        self,
        num_processes: int | None = None,
        *,
        max_memory_bytes: int | None = 2**30,
        max_cpu_seconds: float | None = None,
    ) -> None:
        given = {
            "num_processes": num_processes,
            "max_memory_bytes": max_memory_bytes,
            "max_cpu_seconds": max_cpu_seconds,
        }
        for name, value in given.items():
            if value is not None and not value > 0:
                raise OptionError(f"DecoderProcesses: {name} must be above 0, or None, got {value!r}")
        self.num_processes: int = num_processes or os.cpu_count() or 1
        self._max_memory_bytes = max_memory_bytes
        self._max_cpu_seconds = max_cpu_seconds
        self._lock = threading.Lock()
        self._is_closed = False
        self._processes: set[DecoderProcess] = set()
        # None: not started. The process that was used last is taken first.
        self._free: queue.LifoQueue[DecoderProcess | None] = queue.LifoQueue()
        for _ in range(self.num_processes):
            self._free.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; what they are decoding raises `Cancelled`."""
        with self._lock:
            self._is_closed = True
        for process in list(self._processes):
            process.kill(Cancelled("the processes that decode media were closed"))
        self._end_free()

    def load_clip(
        self, media: MediaFile, *, size: int, window: Window, conventions: Conventions
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return the frames of a `Clip` of `media`, uint8 [frames, size, size, 3], and the attributes of its info."""
        task = {"kind": "clip", "size": size, "window": window.to_json(), "conventions": conventions.to_json()}
        reply, frames = self._run(media, task, (conventions.num_frames, size, size, 3))
        # JSON has lists for tuples.
        return frames, {k: tuple(value) if isinstance(value, list) else value for k, value in reply["info"].items()}

    def load_images(
        self, media: MediaFile, *, size: int, conventions: Conventions, lengths: Sequence[int] = ()
    ) -> NDArray[Any]:
        """Return the image in `media` as the model sees it, uint8 [1, size, size, 3].

        With `lengths`, in bytes, `media` has so many images, one after the other. They have the limits of one.
        """
        task = {"kind": "images", "size": size, "conventions": conventions.to_json(), "lengths": list(lengths)}
        return self._run(media, task, (len(lengths) or 1, size, size, 3))[1]

    def holds_image(self, media: MediaFile) -> bool:
        """Whether `media` is one image."""
        return bool(self._run(media, {"kind": "holds_image"}, (0,))[0]["holds_image"])

    def _run(
        self, media: MediaFile, task: dict[str, Any], shape: tuple[int, ...]
    ) -> tuple[dict[str, Any], NDArray[Any]]:
        """Return the reply to `task`, and pixels uint8 of `shape`."""
        limits = media.budget.limits
        too_large = self._too_large(media.name)
        with ExitStack() as closing:
            medium = SharedMedium(media, closing)
            process = closing.enter_context(self._process(media.budget))
            task |= {
                "name": media.name,
                "path": medium.path,
                "num_bytes": medium.num_bytes,
                "is_sent": medium.file is not None,
                "limits": {name: value for name, value in vars(limits).items() if isinstance(value, _NUMBER)},
                "seconds": media.budget.remaining_seconds,
                "max_cpu_seconds": self._cpu_seconds(limits),
                "max_image_pixels": Image.MAX_IMAGE_PIXELS,
            }
            try:
                reply, data = process.run(
                    task, medium, max_bytes=math.prod(shape), budget=media.budget, too_large=too_large
                )
            except ProcessDied as exc:
                raise self._out_of_cpu(media) if str(exc) == "SIGPROF" else _death(exc, media.name) from exc
        for text in reply["warnings"]:
            warnings.warn(text, stacklevel=2)
        if reply.get("lacks_memory"):
            raise too_large
        if "unexpected" in reply:
            exc = ProcessDied(reply["unexpected"].splitlines()[-1])
            raise _death(exc, media.name) from ProcessDied(reply["unexpected"])
        if "error" in reply:
            raise _error(reply, media.budget)
        return reply, np.frombuffer(data, np.uint8).reshape(shape)

    @contextmanager
    def _process(self, budget: Budget) -> Iterator[DecoderProcess]:
        """Wait for a process that is free."""
        process = self._next_free(budget)
        try:
            process = process or self._start()
            yield process
        finally:
            self._free.put(self._reusable(process))
            if self._is_closed:
                self._end_free()

    def _next_free(self, budget: Budget) -> DecoderProcess | None:
        while True:
            budget.check_time()
            with suppress(queue.Empty):
                return self._free.get(timeout=_WAIT_SECONDS)

    def _end_free(self) -> None:
        with suppress(queue.Empty):
            while True:
                if process := self._free.get_nowait():
                    process.close()
        self._free.put(None)  # wakes those who wait, one after the other

    def _start(self) -> DecoderProcess:
        with self._lock:
            if self._is_closed:
                raise StateError("the processes that decode media are closed: make new ones")
            process = DecoderProcess(self._max_memory_bytes)
            self._processes.add(process)
        return process

    def _reusable(self, process: DecoderProcess | None) -> DecoderProcess | None:
        """Return `process`, or where it cannot be used again, a new one, which starts before it is needed."""
        if process is None or (process.is_reusable and not self._is_closed):
            return process
        self._processes.discard(process)
        process.close()
        with suppress(StateError):
            return self._start()

    def _cpu_seconds(self, limits: MediaLimits) -> float | None:
        if self._max_cpu_seconds is None and limits.timeout_seconds is not None:
            return _MAX_CORES * limits.timeout_seconds
        return self._max_cpu_seconds

    def _out_of_cpu(self, media: MediaFile) -> MediaTimedOut:
        seconds = self._cpu_seconds(media.budget.limits)
        limit = (
            "MediaLimits.timeout_seconds" if self._max_cpu_seconds is None else "max_cpu_seconds of DecoderProcesses"
        )
        message = f"{media.name}: not decoded after {seconds:g} s of CPU time: give a smaller one, or raise {limit}"
        return MediaTimedOut(message, source=media.name)

    def _too_large(self, name: str) -> MediaTooLarge:
        mebibytes = (self._max_memory_bytes or 0) / 2**20
        message = (
            f"{name}: needs more than {mebibytes:g} MiB of memory: give a shorter or smaller one, "
            "or raise max_memory_bytes of DecoderProcesses"
        )
        return MediaTooLarge(message, source=name)


def _death(exc: ProcessDied, name: str) -> UnreadableMedia:
    advice = "give another copy of the file, or convert it"
    if str(exc) == "SIGKILL":
        advice = "if the machine has no memory left, give a smaller one or use fewer processes"
    return UnreadableMedia(f"{name}: the process that decoded it failed ({exc}): {advice}", source=name)


def _error(reply: dict[str, Any], budget: Budget) -> VideoLlavaError:
    """Return the error that was raised in the process."""
    kind = getattr(errors, reply["error"])
    if kind in (MediaTimedOut, DeadlineExceeded):
        return budget.timed_out()  # which knows whose time it was
    message, source = reply["message"], reply["source"]
    return kind(message, source=source) if issubclass(kind, MediaError) else kind(message)
