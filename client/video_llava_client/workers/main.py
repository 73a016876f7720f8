"""What runs in a process of `DecoderProcesses`: one medium after the other, until the pipe ends."""

import io
import os
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

# PyAV and FFmpeg are loaded before the first medium, not for it.
from .. import animations, decoding  # noqa: F401
from ..clip import Clip
from ..conventions import Conventions
from ..deadline import Deadline
from ..errors import MediaError, VideoLlavaError
from ..images import holds_image, open_upright
from ..limits import Budget, MediaLimits
from ..loading import Loading
from ..pixels import fit
from ..sources import MediaFile
from ..unsupported import check_supported
from ..window import Window
from .pipe import CHUNK_BYTES, Pipe

try:
    import fcntl
    import resource
except ImportError:  # Windows
    fcntl = resource = None

_NUM_FILES = 64
_NUM_WARNINGS = 8

# The parent kills a process that has more than its limit. The kernel's limit is higher, since FFmpeg calls a good file
# damaged when an allocation fails. It allocates at most 2 GiB at once.
_MEMORY_SLACK_BYTES = 2**31


def main() -> None:
    """Answer the tasks that come through stdin."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for whatever prints
    pipe = Pipe(sys.stdin.buffer, results)
    with suppress(EOFError, BrokenPipeError):
        settings, _ = pipe.receive()
        _end_with_parent(settings["life"])
        _limit_resources(settings["max_memory_bytes"])
        files = None if settings["files"] is None else socket.socket(fileno=settings["files"])
        pipe.send({})
        while True:
            task, _ = pipe.receive()
            pipe.send(*_answer(task, pipe, files))


def _end_with_parent(life: int | None) -> None:
    """Let the kernel kill this process, inside FFmpeg too, when the other end of the pipe `life` is closed."""
    if fcntl and life is not None:
        fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(life, fcntl.F_SETFL, os.O_ASYNC)


def _limit_resources(max_memory_bytes: int | None) -> None:
    if resource is None:
        return
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NOFILE: _NUM_FILES}
    with suppress(OSError):  # not Linux
        data_bytes = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        if max_memory_bytes is not None:
            limits[resource.RLIMIT_DATA] = data_bytes + max_memory_bytes + _MEMORY_SLACK_BYTES
        # Where a machine or a container runs out of memory, this process is killed, not the one that serves.
        Path("/proc/self/oom_score_adj").write_text("1000")
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))


def _answer(task: dict[str, Any], pipe: Pipe, files: socket.socket | None) -> tuple[dict[str, Any], bytes]:
    file = None
    if task["is_sent"]:
        assert files
        _, (file,), _, _ = socket.recv_fds(files, 1, 1)
    _limit_cpu(task["max_cpu_seconds"] or 0)
    try:
        with warnings.catch_warnings(record=True) as caught:
            reply, data = _attempt(task, _handle(task, pipe, file))
        return reply | {"warnings": [str(warning.message) for warning in caught[:_NUM_WARNINGS]]}, data
    finally:
        _limit_cpu(0)
        if file is not None:
            os.close(file)


def _attempt(task: dict[str, Any], handle: Path | io.BufferedReader) -> tuple[dict[str, Any], bytes]:
    try:
        return _decode(task, handle)
    except VideoLlavaError as exc:
        error = {"error": type(exc).__name__, "message": str(exc), "lacks_memory": _lacks_memory(exc)}
        return error | {"source": exc.source if isinstance(exc, MediaError) else ""}, b""
    except (EOFError, BrokenPipeError):
        raise
    except Exception as exc:  # noqa: BLE001 (the parent reports it)
        return {"unexpected": traceback.format_exc()[-2000:], "lacks_memory": _lacks_memory(exc)}, b""


def _limit_cpu(seconds: float) -> None:
    # Unlike RLIMIT_CPU, it counts fractions of a second, and for each task anew. SIGPROF ends the process.
    if hasattr(signal, "ITIMER_PROF"):
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _handle(task: dict[str, Any], pipe: Pipe, file: int | None) -> Path | io.BufferedReader:
    if task["path"] is not None:
        return Path(task["path"])
    if file is not None:
        return Path(f"/proc/self/fd/{file}")
    return io.BufferedReader(_RemoteFile(pipe, task["num_bytes"]), CHUNK_BYTES)


def _decode(task: dict[str, Any], handle: Path | io.BufferedReader) -> tuple[dict[str, Any], bytes]:
    Image.MAX_IMAGE_PIXELS = task["max_image_pixels"]
    limits, seconds = MediaLimits(**task["limits"]), task["seconds"]
    deadline = None if seconds is None else Deadline(seconds)
    media = MediaFile(task["name"], handle, Budget(limits, source=task["name"], deadline=deadline))
    if task["kind"] == "holds_image":
        return {"holds_image": holds_image(media)}, b""
    size, conventions = task["size"], Conventions.from_facts(task["conventions"])
    if task["kind"] == "images":
        images = _divided(media, task["lengths"]) if task["lengths"] else [media]
        fitted = (fit(open_upright(image), size=size, **conventions.image_fit) for image in images)
        return {}, b"".join(image.tobytes() for image in fitted)
    window = Window.from_options(task["window"]).of_model(conventions)
    clip = Clip.from_media(media, size=size, window=window, loading=Loading(conventions=conventions))
    return {"info": asdict(clip.info)}, clip.frames.tobytes()


def _divided(media: MediaFile, lengths: Iterable[int]) -> Iterator[MediaFile]:
    """Return the files that `media` has, one after the other."""
    with media.opened() as file:
        for length in lengths:
            content = io.BytesIO(file.read(length))
            check_supported(content, source=media.name)
            yield MediaFile(media.name, content, media.budget)


def _lacks_memory(exc: BaseException | None) -> bool:
    while exc is not None:
        if isinstance(exc, MemoryError):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


class _RemoteFile(io.RawIOBase):
    """A file that the parent reads."""

    def __init__(self, pipe: Pipe, num_bytes: int) -> None:
        self._pipe = pipe
        self._num_bytes = num_bytes
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._num_bytes)[whence])
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        self._pipe.send({"offset": self._position, "num_bytes": min(len(buffer), CHUNK_BYTES)})
        _, data = self._pipe.receive(CHUNK_BYTES)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
