"""How many cores nobody needs: what sending may take without slowing the engine down."""

import os
import time
from pathlib import Path
from typing import Any

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_MIN_WINDOW_SECONDS = 0.5
# An engine that takes less than this waits for something else than a core.
_MIN_ENGINE_CORES = 0.25
# More would starve this process's own event loop, which reads the engine's tokens.
_FREE_OF_IDLE_ENGINE = 0.4


class FreeCores:
    """Measures the cores that this process may use. For one thread."""

    def __init__(self) -> None:
        self._cores = sorted(os.sched_getaffinity(0))
        self._limit = _limit()
        self._engine: list[psutil.Process] = []
        self._last: tuple[float, float, float, float] | None = None
        self._free = 0.0

    def measure(self) -> float:
        """Return how many cores were free lately; never less than 0.4 while the engine (child processes) is idle.

        It is never more than a container's CPU limit leaves.
        """
        now = time.monotonic()
        if self._last is None or now - self._last[0] >= _MIN_WINDOW_SECONDS:
            counters = now, self._idle_seconds(), _used_seconds() if self._limit else 0.0, self._engine_seconds()
            if self._last is not None:
                seconds, idle, used, engine = (new - old for new, old in zip(counters, self._last, strict=True))
                idle_cores = min(idle / seconds, self._limit - used / seconds if self._limit else len(self._cores))
                self._free = max(idle_cores, 0.0 if engine / seconds >= _MIN_ENGINE_CORES else _FREE_OF_IDLE_ENGINE)
            self._last = counters
        return self._free

    def _idle_seconds(self) -> float:
        times: Any = psutil.cpu_times(percpu=True)
        return sum(times[core].idle + times[core].iowait for core in self._cores if core < len(times))

    def _engine_seconds(self) -> float:
        # They are there when this is asked first, and stay.
        self._engine = self._engine or psutil.Process().children(recursive=True)
        return sum(_cpu_seconds(process) for process in self._engine)


def _cpu_seconds(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:
        return 0.0


def _limit() -> float | None:
    """Return the container's CPU limit in cores (cgroup v2), None where there is none."""
    try:
        quota, period = (_CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _used_seconds() -> float:
    """Return the CPU time of the container's processes."""
    return int((_CGROUP / "cpu.stat").read_text(encoding="ascii").split()[1]) / 1e6
