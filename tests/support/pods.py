"""A real server as a pod of the overlay `proxy`: at an address of its own, and stopped as its manifest says."""

import os
import subprocess
import sys
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

import psutil
from video_llava_serve import LocalServer

from . import slow_steps
from .kubernetes import render
from .triton import metrics, num_answered

_COMMANDS = Path(sys.executable).parent
# Engines that share their cores wait for each other, busily.
_CORES = cycle(sorted(os.sched_getaffinity(0)))


class Pod:
    """One replica; all listen on the same `ports`, "grpc", "http" and "metrics", each at its own `address`."""

    def __init__(self, model: Path, address: str, ports: Mapping[str, int]) -> None:
        self.address = address
        self.server = LocalServer(
            model=model,
            overlay=slow_steps.OVERLAY,
            engine_arguments=slow_steps.ENGINE_ARGUMENTS,
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
        self.server.start()

    def metrics(self) -> dict[str, float]:
        return metrics(self.server.metrics_url)

    def num_answered(self) -> int:
        return num_answered(self.server.metrics_url)

    def leave(self) -> None:
        """Run the manifest's preStop: it must end by itself all that it had begun."""
        folder = psutil.Process(self.server.pid).environ()["VIDEO_LLAVA_RUNTIME_DIR"]
        environment = os.environ | {
            "VIDEO_LLAVA_RUNTIME_DIR": folder,
            "PATH": f"{_COMMANDS}{os.pathsep}{os.environ['PATH']}",
        }
        subprocess.run(_pre_stop(), env=environment, check=True, timeout=250)

    def stop(self) -> None:
        """Send SIGTERM; fail with the end of the log unless the server ends in order."""
        log = self.server.log_path
        self.server.stop()
        # A log is kept where the stop went wrong.
        assert self.server.stopped_cleanly, log.read_text(encoding="utf-8", errors="replace")[-4000:]


def _pre_stop() -> list[str]:
    (triton,) = (c for c in render("overlays/proxy").server()["spec"]["containers"] if c["name"] == "triton")
    return triton["lifecycle"]["preStop"]["exec"]["command"]
