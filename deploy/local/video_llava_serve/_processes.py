"""The processes that a ready server needs. Triton 24.10 still says "ready" when one of them has died."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

_STUB = "triton_python_backend_stub"
# vLLM's processes name themselves: VLLM::EngineCore, VLLM::Worker_TP1.
_ENGINE_PREFIX = "VLLM::"


@dataclass(frozen=True)
class NeededProcess:
    """One of them, and what it is in words."""

    process: psutil.Process
    role: str

    @property
    def is_dead(self) -> bool:
        """Whether it has ended; Triton leaves a stub that died as a zombie."""
        try:
            return not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    @property
    def died(self) -> str:
        """Say so in words."""
        return f"{self.role} has died"


def find_needed(server_pid: int) -> tuple[NeededProcess, ...]:
    """Return a ready server first, then its models' stubs and the engine's processes."""
    server = psutil.Process(server_pid)
    found = [NeededProcess(server, "tritonserver")]
    for process in server.children(recursive=True):
        try:
            role = _role(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        if role:
            found.append(NeededProcess(process, role))
    return tuple(found)


def _role(command: Sequence[str]) -> str:
    if command and command[0].startswith(_ENGINE_PREFIX):
        return f"vLLM's process {command[0].split()[0]}"
    if command and Path(command[0]).name == _STUB:
        # Its first argument is REPOSITORY/MODEL/VERSION/model.py.
        return f"the process of the model '{Path(command[1]).parts[-3]}'"
    return ""
