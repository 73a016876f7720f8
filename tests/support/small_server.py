"""A server with little room, started by the command: a few requests do here what takes a load elsewhere.

Four requests fill the batch, a fifth waits. The KV cache has 640 positions, too few for four long answers. A prompt is
prefilled 8 positions at a time. The video encoder waits a second for further requests before it runs. Where there are
two cores, the language model is split over two processes.
"""

import json
import os
import shutil
import subprocess
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Self

from . import slow_steps
from .launcher import FREE_PORT_OPTIONS, Launcher
from .triton import metrics

EXIT_TIMEOUT_SECONDS = 15
MAX_NUM_SEQS = 4
MAX_MODEL_LEN = 512
TENSOR_PARALLEL_SIZE = min(2, len(os.sched_getaffinity(0)))
_ENGINE_ARGUMENTS = {
    **slow_steps.ENGINE_ARGUMENTS,
    "max_model_len": MAX_MODEL_LEN,
    "max_num_seqs": MAX_NUM_SEQS,
    "max_num_batched_tokens": 8,
    "tensor_parallel_size": TENSOR_PARALLEL_SIZE,
    # Of each process.
    "kv_cache_memory_bytes": 640 * 2048 // TENSOR_PARALLEL_SIZE,
}
_ENCODER_CONFIG = Path(__file__).parents[2] / "model_repository" / "video_encoder" / "config.pbtxt"
_DELAY = "max_queue_delay_microseconds: 1000 "


class SmallServer:
    """Starts on entry to a `with` block; the first use of `url` or `metrics` waits until it is ready."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.log_folder = folder / "log"
        self.log_folder.mkdir()
        self.request_log = self.log_folder / "requests"
        self._disk = _SmallDisk(self.log_folder)
        self._model = model
        self._overlay = _make_overlay(folder / "overlay")
        self._urls: tuple[str, str] | None = None

    def __enter__(self) -> Self:
        self._disk.mount()
        options = {
            "--model": self._model,
            "--overlay": self._overlay,
            "--engine-arguments": json.dumps(_ENGINE_ARGUMENTS),
            "--log-file": self.log_folder / "server.log",
            "--request-log": f"{os.path.relpath(self.request_log)},texts,chain,megabytes=0.4,files=2",
            "--exit-timeout-seconds": str(EXIT_TIMEOUT_SECONDS),
        }
        self.launcher = Launcher(*FREE_PORT_OPTIONS, *chain.from_iterable(options.items()))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.launcher.end()
        # For whoever looks into a failure: unmounting loses the disk's content.
        shutil.copytree(self.log_folder, self.log_folder.with_name("kept_log"))
        self._disk.unmount()

    @property
    def url(self) -> str:
        """The gRPC address, which stays the same when the server is started again."""
        return self._ready()[0]

    def metrics(self) -> dict[str, float]:
        return metrics(self._ready()[1])

    def _ready(self) -> tuple[str, str]:
        if self._urls is None:
            grpc_url = self.launcher.wait_ready()
            self._urls = grpc_url, self.launcher.stderr.split("metrics ")[-1].strip()
        return self._urls

    def fill_the_disk(self) -> bool:
        """Leave no byte for the log; False where this user may not mount a disk small enough."""
        return self._disk.fill()

    def free_the_disk(self) -> None:
        self._disk.free()


class _SmallDisk:
    """Two megabytes of memory, mounted, if this user may."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._filler = folder / "filler"
        self._is_mounted = False

    def mount(self) -> None:
        command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(self._folder)]
        if os.geteuid() == 0:
            self._is_mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def unmount(self) -> None:
        if self._is_mounted:
            subprocess.run(["umount", str(self._folder)], check=True)

    def fill(self) -> bool:
        if self._is_mounted:
            with self._filler.open("wb", buffering=0) as file:
                while _can_write(file.fileno()):
                    pass
        return self._is_mounted

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)


def _can_write(file: int) -> bool:
    try:
        return os.write(file, bytes(4096)) > 0
    except OSError:
        return False


def _make_overlay(folder: Path) -> Path:
    shutil.copytree(slow_steps.OVERLAY, folder)
    text = _ENCODER_CONFIG.read_text(encoding="utf-8")
    assert _DELAY in text
    encoder = folder / "video_encoder" / "config.pbtxt"
    encoder.parent.mkdir()
    encoder.write_text(text.replace(_DELAY, "max_queue_delay_microseconds: 1000000 "), encoding="utf-8")
    return folder
