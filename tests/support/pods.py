"""A real server as a pod of the overlay `proxy`: at an address of its own, and gone in the way of its manifest."""

import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import psutil
from video_llava_serve import LocalServer

from .kubernetes import render
from .triton import metrics, num_answered

_COMMANDS = Path(sys.executable).parent
# Engines that share their cores wait for each other, busily.
_CORES = cycle(sorted(os.sched_getaffinity(0)))


class Pod:
    """One replica; all listen on the same `ports`, "grpc", "http" and "metrics", each at its own `address`."""

    def __init__(self, repository: Path, address: str, ports: Mapping[str, int]) -> None:
        self.address = address
        self._server = LocalServer(
            repository=repository,
            grpc_address=address,
            http_address=address,
            metrics_address=address,
            grpc_port=ports["grpc"],
            http_port=ports["http"],
            metrics_port=ports["metrics"],
            cache_megabytes=64,
            environment={"VLLM_CPU_OMP_THREADS_BIND": str(next(_CORES))},
        )

    def start(self) -> None:
        """Return when it is ready."""
        self._server.start()

    def metrics(self) -> dict[str, float]:
        return metrics(self._server.metrics_url)

    def num_answered(self) -> int:
        return num_answered(self._server.metrics_url)

    def leave(self) -> None:
        """Do what stands before SIGTERM; it must end by itself all that it had begun."""
        folder = psutil.Process(self._server.pid).environ()["VIDEO_LLAVA_RUNTIME_DIR"]
        environment = os.environ | {
            "VIDEO_LLAVA_RUNTIME_DIR": folder,
            "PATH": f"{_COMMANDS}{os.pathsep}{os.environ['PATH']}",
        }
        subprocess.run(_pre_stop(), env=environment, check=True, timeout=250)

    def stop(self) -> None:
        self._server.stop()

    @property
    def stopped_cleanly(self) -> bool:
        return self._server.stopped_cleanly


def _pre_stop() -> list[str]:
    (triton,) = (c for c in render("overlays/proxy").server()["spec"]["containers"] if c["name"] == "triton")
    return triton["lifecycle"]["preStop"]["exec"]["command"]
