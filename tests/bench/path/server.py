"""A server of one checkout, with the model without weights and the engine that costs nothing."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from onnx import TensorProto

from .model import write_model

_FREE_PORTS = ("--http-port=0", "--grpc-port=0", "--metrics-port=0")
OVERLAY = Path(__file__).with_name("overlay")


class Server:
    """`video-llava-serve` of the checkout `root`, whose environment `make .venv/.ready` has made."""

    def __init__(
        self,
        name: str,
        root: Path,
        models: Path,
        *,
        environment: Mapping[str, str],
        overlay: Path = OVERLAY,
        in_float32: bool = False,
    ) -> None:
        self.name, self.root = name, root
        self._environment, self._overlay = environment, overlay
        features = TensorProto.FLOAT if in_float32 or _takes_float32(root) else TensorProto.FLOAT16
        self.model = models / f"path-{TensorProto.DataType.Name(features).lower()}"
        write_model(self.model, features=features)

    def start(self, *, cache_megabytes: int) -> Self:
        """Start and wait until it is ready."""
        command: list[Any] = [
            self.root / ".venv/bin/video-llava-serve",
            "--model",
            self.model,
            "--overlay",
            self._overlay,
        ]
        command += [*_FREE_PORTS, "--cache-megabytes", str(cache_megabytes), "--no-restart"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(self._environment))
        assert self._process.stderr is not None
        lines = ""
        for line in self._process.stderr:
            lines += line
            if line.startswith("ready after"):
                self.url = line.split("gRPC ")[1].split(",")[0]
                return self
        self._process.communicate(timeout=60)
        raise RuntimeError(f"the server of {self.root} did not start: {lines}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)

    def _tree(self) -> list[psutil.Process]:
        root = psutil.Process(self._process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time of every process so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._tree())

    def resident_bytes(self) -> int:
        """Proportional set sizes: shared pages count once."""
        return sum(process.memory_full_info().pss for process in self._tree())


def _takes_float32(root: Path) -> bool:
    """Whether the checkout's language model takes features in float32 alone."""
    return "features_dtype" not in (root / "deploy/server/video_llava_server/manifest.py").read_text(encoding="utf-8")
