"""CPU time and memory of a process with all that it started."""

import threading
from types import TracebackType
from typing import Self

import psutil

_SAMPLE_SECONDS = 1.0


class Usage:
    """Meters a process tree inside a `with` block.

    `cpu_seconds` counts user and system time of every process, those that ended meanwhile included where their parent
    waited for them. `peak_bytes` is the largest sum of proportional set sizes seen once a second: shared pages
    count once.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="usage", daemon=True)
        self.cpu_seconds = 0.0
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._start = self._cpu()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cpu_seconds = self._cpu() - self._start
        self._ended.set()
        self._sampler.join()

    def _tree(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def _cpu(self) -> float:
        times = [process.cpu_times() for process in self._tree()]
        return sum(each.user + each.system + each.children_user + each.children_system for each in times)

    def _sample(self) -> None:
        while True:
            self.peak_bytes = max(self.peak_bytes, sum(map(_proportional_bytes, self._tree())))
            if self._ended.wait(_SAMPLE_SECONDS):
                return


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except psutil.NoSuchProcess:
        return 0
