"""How busy the GPU is and how much of its memory is taken, as nvidia-smi says five times a second."""

import shutil
import subprocess
from types import TracebackType
from typing import Self

_COMMAND = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200")


class Card:
    """Meters the first GPU inside a `with` block; both figures stay None without nvidia-smi."""

    busy: float | None = None
    """mean share of the time in which a kernel ran"""
    peak_bytes: float | None = None

    def __enter__(self) -> Self:
        self._process = None
        if shutil.which(_COMMAND[0]):
            self._process = subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        text, _ = self._process.communicate(timeout=10)
        # The last line may be cut.
        samples = [line.split(",") for line in text.splitlines()[:-1]]
        if samples:
            self.busy = sum(float(busy) for busy, _ in samples) / len(samples) / 100
            self.peak_bytes = max(float(used) for _, used in samples) * 2**20
