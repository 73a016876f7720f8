"""How many cores nobody needs: what sending may take without slowing the engine down."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_MIN_WINDOW_SECONDS = 0.5
# An engine that takes less than this waits for something else than a core.
_MIN_ENGINE_CORES = 0.25
# What an idle engine leaves at most. If that makes the event loop, which reads the engine's tokens, late by more than
# this, it is less by a factor; then again more by a step.
_FREE_OF_IDLE_ENGINE = 0.4
_MAX_LAG_SECONDS = 0.02
_FACTOR, _STEP = 0.7, 0.04


class FreeCores:
    """Measures the cores that this process may use. For one thread."""

    def __init__(self, lag_seconds: Callable[[], float]) -> None:
        """`lag_seconds` tells how late the event loop is."""
        self._lag_seconds = lag_seconds
        self._cores = sorted(os.sched_getaffinity(0))
        self._limit = _limit()
        self._engine: list[psutil.Process] = []
        self._last: tuple[float, float, float, float] | None = None
        self._free = 0.0
        self._free_of_idle_engine = _FREE_OF_IDLE_ENGINE

    def measure(self) -> float:
        """Return how many cores were free lately, up to a container's limit.

        While the engine (child processes) is idle it is up to 0.4, as long as the event loop is in time.
        """
        now = time.monotonic()
        if self._last is None or now - self._last[0] >= _MIN_WINDOW_SECONDS:
            counters = now, self._idle_seconds(), _used_seconds() if self._limit else 0.0, self._engine_seconds()
            if self._last is not None:
                seconds, idle, used, engine = (new - old for new, old in zip(counters, self._last, strict=True))
                idle_cores = min(idle / seconds, self._limit - used / seconds if self._limit else len(self._cores))
                self._free = max(idle_cores, 0.0 if engine / seconds >= _MIN_ENGINE_CORES else self._leave_to_loop())
            self._last = counters
        return self._free

    def _leave_to_loop(self) -> float:
        free = self._free_of_idle_engine
        free = free * _FACTOR if self._lag_seconds() > _MAX_LAG_SECONDS else free + _STEP
        self._free_of_idle_engine = min(free, _FREE_OF_IDLE_ENGINE)
        return self._free_of_idle_engine

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
