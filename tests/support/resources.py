"""What a server and all that it started take of the machine, and whether it grows."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

SHARED_MEMORY = "/dev/shm/"
ENGINE_PREFIX = "psm_"
"""begins the names of vLLM's files there; the others are Triton's"""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A tree of processes at one time. Resident memory counts what processes share once for each of them.

    `shared_bytes` are Triton's pools. `ring_bytes` are what vLLM's rings of messages have used of their fixed sizes:
    each of a ring's ten pieces keeps the pages of the largest step that it ever held, hence grows by chance and late.
    """

    at_seconds: float
    resident_bytes: int
    shared_bytes: int
    ring_bytes: int
    num_processes: int
    num_threads: int
    num_files: int


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]


def shared_files(processes: Sequence[psutil.Process]) -> set[Path]:
    """Return the files in /dev/shm that the processes have mapped."""
    files = set()
    for process in processes:
        for line in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            name = line.partition(SHARED_MEMORY)[2].removesuffix(" (deleted)")
            files |= {Path(SHARED_MEMORY) / name} if name else set()
    return files


def measure(pid: int) -> Usage:
    """Measure the tree below `pid`."""
    processes = process_tree(pid)
    # Blocks: what is promised and was never written takes nothing.
    used = {file: file.stat().st_blocks * 512 for file in shared_files(processes) if file.exists()}
    ring_bytes = sum(size for file, size in used.items() if file.name.startswith(ENGINE_PREFIX))
    return Usage(
        at_seconds=time.monotonic(),
        resident_bytes=sum(process.memory_info().rss for process in processes),
        shared_bytes=sum(used.values()) - ring_bytes,
        ring_bytes=ring_bytes,
        num_processes=len(processes),
        num_threads=sum(process.num_threads() for process in processes),
        num_files=sum(process.num_fds() for process in processes),
    )


def growth(usages: Sequence[Usage], field: str) -> tuple[float, float]:
    """Return the mean of a field, and how far the straight line through its values rises from first to last."""
    times = np.array([usage.at_seconds for usage in usages])
    values = np.array([getattr(usage, field) for usage in usages], float)
    slope = np.polyfit(times - times[0], values, 1)[0]
    return float(values.mean()), float(slope * (times[-1] - times[0]))
