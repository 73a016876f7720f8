"""What Triton imports: twice at its start, first in a process that it only asks whether the model completes its own
configuration. This one does not, so torch and vLLM, which take seconds, wait until the second (`adapter.py`).
"""

import locale
from typing import Any


class TritonPythonModel:
    """What Triton's Python backend calls, from one thread."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine; Triton reports the model ready when this returns."""
        # The embedded interpreter opens text files as ASCII otherwise, in vLLM's own code too.
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        from .adapter import Adapter

        self._adapter = Adapter(args)

    def execute(self, requests: list[Any]) -> None:
        """Take the requests and return: their responses follow as the engine generates."""
        self._adapter.execute(requests)

    def is_ready(self) -> bool:
        """Asked by Triton 26.03 and later."""
        return self._adapter.is_ready()

    def finalize(self) -> None:
        """End the engine's process and the threads."""
        self._adapter.finalize()
