"""`video-llava-serve` as users start it, and the processes of a server."""

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

FREE_PORT_OPTIONS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
_COMMANDS = Path(sys.executable).parent


class Launcher:
    """`video-llava-serve` with `arguments`, and every process that came with it."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [_COMMANDS / "video-llava-serve", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        self.stderr = ""

    def wait_ready(self) -> str:
        """Wait for the next line that says so; the gRPC address in it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr += line
            if line.startswith("ready after"):
                return line.split("gRPC ")[1].split(",")[0]
        raise AssertionError(f"not ready: {self.stderr}")

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, matches: Callable[[psutil.Process], bool]) -> psutil.Process:
        return next(filter(matches, self.descendants()))

    def tritonserver(self) -> psutil.Process:
        return self.find(lambda process: process.name() == "tritonserver")

    def shared_memory_prefix(self) -> str:
        flags = " ".join(self.tritonserver().cmdline())
        return flags.split("shm-region-prefix-name=", maxsplit=1)[1].split()[0]

    def finish(self, *, timeout_seconds: float = 40) -> int:
        _, rest = self.process.communicate(timeout=timeout_seconds)
        self.stderr += rest
        return self.process.returncode

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.finish()
        assert self.process.stderr is not None
        self.process.stderr.close()


def files_of(prefix: str) -> list[Path]:
    """What a server with this `shared_memory_prefix` has in shared memory and among the temporary files."""
    return [path for folder in ("/dev/shm", tempfile.gettempdir()) for path in Path(folder).glob(f"{prefix}*")]


def find_engine(pid: int) -> psutil.Process:
    """vLLM's engine among the descendants of a server."""
    return next(process for process in psutil.Process(pid).children(recursive=True) if _is_engine(process))


def _is_engine(process: psutil.Process) -> bool:
    return process.cmdline()[0].startswith("VLLM::EngineCore")


def is_stub_of_vicuna(process: psutil.Process) -> bool:
    return process.name() == "triton_python_backend_stub" and "vicuna" in " ".join(process.cmdline())


def probe(url: str) -> int:
    """The exit code of `video-llava probe`, which a readiness check would see."""
    command = [_COMMANDS / "video-llava", "probe", "--url", url, "--timeout", "5"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def wait_until_gone(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of the processes that still run after a while."""
    deadline = time.monotonic() + 20
    while (left := [process for process in processes if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
