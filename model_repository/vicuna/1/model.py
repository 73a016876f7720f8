"""What Triton loads; the code is the package video_llava_server, installed where Triton runs.

Triton imports this file twice at its start, first in a process that it only asks whether the model completes its own
configuration. It does not, so torch and vLLM, whose import takes seconds, wait until `initialize`.
"""

import locale
from typing import Any


class TritonPythonModel:
    """What Triton's Python backend calls, from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine; Triton reports the model ready when this returns."""
        # The embedded interpreter opens text files as ASCII otherwise, in vLLM's own code too.
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        from video_llava_server.vicuna import Vicuna

        self._vicuna = Vicuna(args)

    def execute(self, requests: list[Any]) -> None:
        """Take the requests and return: their responses follow as the engine generates."""
        self._vicuna.execute(requests)

    def is_ready(self) -> bool:
        """Answer Triton 26.03 and later."""
        return self._vicuna.is_ready()

    def finalize(self) -> None:
        """End the engine's process and the threads."""
        self._vicuna.finalize()
