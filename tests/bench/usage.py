"""CPU time and memory of a process with all that it started, and the CPU time that went elsewhere meanwhile."""

import os
import threading
import time
from types import TracebackType
from typing import Any, Self

import psutil

from .card import Card

# Adding up the pages of a server's processes takes the kernel some 100 ms, which the server would rather have.
_SAMPLE_SECONDS = 10.0


class Usage:
    """Meters a process tree inside a `with` block.

    `cpu_seconds` counts user and system time of every process, those that ended meanwhile included where their parent
    waited for them; `client_cpu_seconds` that of this process, where it is not the tree's root. `others_cpu_seconds` is
    all else on the machine: with much of it, no time measured meanwhile is worth anything. `peak_bytes` is the largest
    sum of proportional set sizes (shared pages count once) seen every ten seconds and at the end. The GPU's figures are
    `Card`'s.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._card = Card()
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="usage", daemon=True)
        self.cpu_seconds = 0.0
        self.client_cpu_seconds = 0.0
        self.others_cpu_seconds = 0.0
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._card.start()
        self._start = self._cpu()
        self._client_start, self._machine_start = time.process_time(), _machine_cpu()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cpu_seconds = self._cpu() - self._start
        if self._root.pid != os.getpid():
            self.client_cpu_seconds = time.process_time() - self._client_start
        machine = _machine_cpu() - self._machine_start
        self.others_cpu_seconds = max(0.0, machine - self.cpu_seconds - self.client_cpu_seconds)
        self._card.stop()
        self._ended.set()
        self._sampler.join()

    def figures(self) -> dict[str, Any]:
        """Fields of `Run`."""
        return {
            "cpu_seconds": self.cpu_seconds,
            "client_cpu_seconds": self.client_cpu_seconds,
            "others_cpu_seconds": self.others_cpu_seconds,
            "peak_bytes": self.peak_bytes,
            "gpu_busy": self._card.busy,
            "gpu_peak_bytes": self._card.peak_bytes,
        }

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def _cpu(self) -> float:
        times = [process.cpu_times() for process in self._tree()]
        return sum(each.user + each.system + each.children_user + each.children_system for each in times)

    def _sample(self) -> None:
        has_ended = False
        while not has_ended:
            has_ended = self._ended.wait(_SAMPLE_SECONDS)
            self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, self._tree())))


def _machine_cpu() -> float:
    times: Any = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return 0
