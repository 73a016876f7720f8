"""Runs one tritonserver and leaves nothing of it behind, even if the launcher is killed.

A process of its own between the launcher and tritonserver, started by path with one argument, a `Task` as JSON. It
prints the server's pid, then waits until the server ends, SIGTERM asks for a stop (SIGQUIT for one that does not wait
for requests), or the launcher is gone. Then it stops the server, ends every process that descends from it, removes its
shared memory and its run directory, and exits with the server's code.
"""

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.1
# For the errors of requests in flight to reach their callers.
_URGENT_SECONDS = 2.0
# From the end of the last model's process to the server's own; a healthy server takes less.
_UNLOADED_SECONDS = 3.0
# A stub looks for its parent every 0.3 s; vLLM's processes clean up their shared memory when asked to end.
_DESCENDANTS_TIMEOUT_SECONDS = 5.0
_SHARED_MEMORY = Path("/dev/shm")
# Of Python's multiprocessing, and of the processes that a model is split over on a CPU, which vLLM never removes.
_ENGINE_MEMORY = ("/dev/shm/psm_", "/dev/shm/vllm_dist_")


@dataclass(frozen=True)
class Task:
    """One server to run."""

    launcher_pid: int
    command: list[str]
    """its stdout and stderr, and those of all of its children, are the reaper's stderr"""
    run_directory: str
    """working directory of the server; removed at the end"""
    shared_memory_prefix: str
    """begins the names of the server's files in /dev/shm"""
    stop_timeout_seconds: float
    """from SIGTERM until SIGKILL"""

    def to_json(self) -> str:
        """Write the reaper's only argument."""
        return json.dumps(asdict(self))


class Reaper:
    """One server from its start to the end of its last process."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._stop_requested = False
        self._is_urgent = False
        self._engine_memory: set[Path] = set()
        # A process whose parent has died becomes our child instead of init's, so that none is missed.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, self._request_stop)

    def run(self) -> int:
        """Return the server's exit code, 128 + n when signal n ended it."""
        try:
            code = self._serve()
        finally:
            self._note_engine_memory()
            _end_descendants()
            self._remove_leftovers()
        return code if code >= 0 else 128 - code

    def _serve(self) -> int:
        server = self._start()
        with suppress(BrokenPipeError):
            print(server.pid, flush=True)  # noqa: T201, the launcher reads it
        while server.poll() is None and not self._stop_requested and self._launcher_lives():
            time.sleep(_POLL_SECONDS)
        # Its callers have nobody who would wait: without a drain Triton 24.10 may hold broken requests to its timeout.
        self._is_urgent |= not self._launcher_lives()
        return self._stop(server) if server.returncode is None else server.returncode

    def _request_stop(self, number: int, _frame: FrameType | None) -> None:
        self._stop_requested = True
        self._is_urgent |= number == signal.SIGQUIT

    def _launcher_lives(self) -> bool:
        return os.getppid() == self._task.launcher_pid

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            self._task.command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            cwd=self._task.run_directory,
            preexec_fn=_end_with_parent,
        )

    def _stop(self, server: subprocess.Popen[bytes]) -> int:
        self._note_engine_memory()
        server.terminate()
        began = seen_models_at = time.monotonic()
        while server.poll() is None:
            now = time.monotonic()
            if psutil.Process(server.pid).children():
                seen_models_at = now
            if now - began > (_URGENT_SECONDS if self._is_urgent else self._task.stop_timeout_seconds):
                server.kill()
                return server.wait()
            # A caller who leaves at the wrong moment can make Triton 24.10 leak a request that was answered long ago.
            # Nothing is in flight, but the ensemble, the only model without a process, is never unloaded.
            if now - seen_models_at > _UNLOADED_SECONDS:
                server.kill()
                server.wait()
                return 0
            time.sleep(_POLL_SECONDS)
        # While it starts, Triton has no handler for the signal yet: that is a clean end as well.
        return 0 if server.returncode == -signal.SIGTERM else server.returncode

    def _note_engine_memory(self) -> None:
        # The engine names its shared memory itself, so remember what it holds while it lives. Only its own: a
        # client's regions carry the client's names and are the client's to remove.
        for process in psutil.Process().children(recursive=True):
            self._engine_memory |= _mapped_files(process.pid, _ENGINE_MEMORY)

    def _remove_leftovers(self) -> None:
        own = _SHARED_MEMORY.glob(f"{self._task.shared_memory_prefix}*")
        for leftover in (*own, *self._engine_memory):
            leftover.unlink(missing_ok=True)
        shutil.rmtree(self._task.run_directory, ignore_errors=True)


def _end_with_parent() -> None:
    # For when the reaper itself is killed. Safe here and not in the launcher: the signal comes when the thread that
    # started the child ends, and the reaper has only one.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _mapped_files(pid: int, prefixes: tuple[str, ...]) -> set[Path]:
    """Files that a process has mapped and whose path begins with one of `prefixes`; none if the process is gone."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return set()
    mapped = (line.split()[-1] for line in maps.splitlines() if "(deleted)" not in line)
    return {Path(name) for name in mapped if name.startswith(prefixes)}


def _end_descendants() -> None:
    for end in (psutil.Process.terminate, psutil.Process.kill):
        descendants = psutil.Process().children(recursive=True)
        for process in descendants:
            with suppress(psutil.NoSuchProcess):
                end(process)
        psutil.wait_procs(descendants, timeout=_DESCENDANTS_TIMEOUT_SECONDS)


if __name__ == "__main__":
    sys.exit(Reaper(Task(**json.loads(sys.argv[1]))).run())
