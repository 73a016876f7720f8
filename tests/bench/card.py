"""How busy the GPU is and how much of its memory is taken, as nvidia-smi says five times a second."""

import shutil
import subprocess

_COMMAND = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200")


class Card:
    """Meters the first GPU from `start` to `stop`; both figures stay None without nvidia-smi."""

    busy: float | None = None
    """mean share of the time in which a kernel ran"""
    peak_bytes: float | None = None

    def start(self) -> None:
        """Begin."""
        has_program = shutil.which(_COMMAND[0])
        self._process = subprocess.Popen(_COMMAND, stdout=subprocess.PIPE, text=True) if has_program else None

    def stop(self) -> None:
        """End, and take the figures."""
        if self._process is None:
            return
        self._process.terminate()
        text, _ = self._process.communicate(timeout=10)
        # The last line may be cut.
        samples = [line.split(",") for line in text.splitlines()[:-1]]
        if samples:
            self.busy = sum(float(busy) for busy, _ in samples) / len(samples) / 100
            self.peak_bytes = max(float(used) for _, used in samples) * 2**20
