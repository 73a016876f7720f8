"""One process that decodes, as its parent sees it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, StateError, VideoLlavaError
from .pipe import Pipe

if TYPE_CHECKING:
    from ..limits import Budget
    from .medium import SharedMedium

# Not `multiprocessing`: its child imports the caller's script. The first line on stdin is `sys.path`.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from video_llava_client.workers.main import main; main()"
)
_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")
_PIPE_BYTES = 2**20  # pixels of a clip come in a few parts
_WATCH_SECONDS = 0.02
# A process that ends its work by itself, a little late, is used again.
_GRACE_SECONDS = 0.25


class ProcessDied(Exception):
    """The process ended; the text says how."""


class DecoderProcess:
    """A process that decodes one medium at a time.

    Args:
        max_memory_bytes: For one medium, above what a new process has; None is no limit.

    Raises:
        StateError: No process can be started.
    """

    def __init__(self, max_memory_bytes: int | None) -> None:
        self._max_memory_bytes = max_memory_bytes
        self._fresh_bytes: int | None = None
        self._killed_for: BaseException | None = None
        self._closing = ExitStack()
        try:
            with ExitStack() as theirs:
                life, files = self._life(theirs), self._files(theirs)
                self._process = self._start([fd for fd in (life, files) if fd is not None])
        except OSError as exc:
            self._closing.close()
            raise StateError(f"no process to decode in ({exc}): use fewer, or free memory or files") from exc
        assert self._process.stdin
        assert self._process.stdout
        self._pipe = Pipe(self._process.stdout, self._process.stdin)
        with suppress(ImportError, AttributeError, OSError):  # not Linux, or too many pipes
            import fcntl

            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        path = [str(Path(entry).absolute()) for entry in sys.path]
        with suppress(BrokenPipeError):  # the first task reports it
            self._process.stdin.write(json.dumps(path).encode() + b"\n")
            self._pipe.send({"life": life, "files": files, "max_memory_bytes": max_memory_bytes})

    def _life(self, theirs: ExitStack) -> int | None:
        """Open a pipe that is closed when this process ends, if the kernel then kills the other one (Linux)."""
        with suppress(ImportError, AttributeError):
            import fcntl

            _ = fcntl.F_SETSIG
            read_end, write_end = os.pipe()
            self._closing.callback(os.close, write_end)
            theirs.callback(os.close, read_end)
            return read_end

    def _files(self, theirs: ExitStack) -> int | None:
        """Open a socket through which open files go; None: on Windows."""
        self._sender = None
        if not hasattr(socket, "send_fds"):
            return None
        sender, receiver = socket.socketpair()
        self._sender = self._closing.enter_context(sender)
        return theirs.enter_context(receiver).fileno()

    @staticmethod
    def _start(fds: list[int]) -> subprocess.Popen[bytes]:
        variables = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        return subprocess.Popen(
            [sys.executable, "-I", "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=fds,
            cwd="/",
            env=variables | {"OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for the parent
        )

    @property
    def is_reusable(self) -> bool:
        """Whether it runs, and has returned most of the memory that it took."""
        if self._process.poll() is not None or self._killed_for:
            return False
        return self._max_memory_bytes is None or self._taken_bytes("VmRSS") <= self._max_memory_bytes / 4

    def run(
        self,
        task: Mapping[str, Any],
        medium: SharedMedium,
        *,
        max_bytes: int,
        budget: Budget,
        too_large: VideoLlavaError,
    ) -> tuple[dict[str, Any], bytearray]:
        """Let the process decode a medium; return its reply and pixels.

        Args:
            task: What it shall do.
            medium: Which medium.
            max_bytes: Size of the largest reply.
            budget: When the process is killed.
            too_large: The error for too much memory.

        Raises:
            ProcessDied: It crashed.
            VideoLlavaError: It was killed, for the reason that this error says.
        """
        try:
            with self._watched(budget, too_large):
                reply = self._exchange(task, medium, max_bytes)
                self._check_memory(too_large)
            if not self._killed_for:
                return reply
        except (EOFError, BrokenPipeError) as exc:
            if not self._killed_for:
                raise self._death(exc) from None
        except BaseException as exc:
            self.kill(exc)
            raise
        raise self._killed_for from ProcessDied("killed")

    def _exchange(
        self, task: Mapping[str, Any], medium: SharedMedium, max_bytes: int
    ) -> tuple[dict[str, Any], bytearray]:
        if self._fresh_bytes is None:
            self._pipe.receive()  # it has started
            self._fresh_bytes = self._memory_bytes("VmHWM")
        if medium.file is not None:
            assert self._sender
            socket.send_fds(self._sender, [b"f"], [medium.file])
        self._pipe.send(task)
        while True:
            reply, data = self._pipe.receive(max_bytes)
            if "offset" not in reply:
                return reply, data
            self._pipe.send({}, medium.read(reply["offset"], reply["num_bytes"]))

    def kill(self, reason: BaseException) -> None:
        """End the process, without waiting; `run`, if it is running in another thread, raises `reason`."""
        self._killed_for = self._killed_for or reason
        self._process.kill()

    def close(self) -> None:
        """End the process and release its pipes; not while `run` is running."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
        self._closing.close()

    @contextmanager
    def _watched(self, budget: Budget, too_large: VideoLlavaError) -> Iterator[None]:
        """Kill the process when it has used up its time or its memory."""
        done = threading.Event()

        def watch() -> None:
            grace_ends = 0.0
            while not done.wait(_WATCH_SECONDS) and not self._killed_for:
                self._check_memory(too_large)
                try:
                    budget.check_time()
                    grace_ends = time.monotonic() + _GRACE_SECONDS
                except VideoLlavaError as exc:
                    if time.monotonic() > grace_ends or isinstance(exc, Cancelled):
                        self.kill(exc)

        watcher = threading.Thread(target=watch, name="video-llava-watch", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def _check_memory(self, too_large: VideoLlavaError) -> None:
        # The peak since the process began: the medium that exceeds the limit is its last.
        if self._max_memory_bytes is not None and self._taken_bytes("VmHWM") > self._max_memory_bytes:
            self.kill(too_large)

    def _taken_bytes(self, name: str) -> int:
        return 0 if self._fresh_bytes is None else self._memory_bytes(name) - self._fresh_bytes

    def _memory_bytes(self, name: str) -> int:
        """Return a line of /proc/PID/status; 0 where there is none (not Linux, or the process has ended)."""
        with suppress(OSError):
            for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
        return 0

    def _death(self, exc: Exception) -> Exception:
        with suppress(subprocess.TimeoutExpired):  # a process that has closed its pipe and lives on
            self._process.wait(timeout=1)
        self._process.kill()
        code = self._process.wait()
        how = str(exc) or (signal.Signals(-code).name if code < 0 else f"exit code {code}")
        if self._fresh_bytes is None:
            return StateError(f"a process to decode in did not start ({how}): stderr may say why")
        return ProcessDied(how)
