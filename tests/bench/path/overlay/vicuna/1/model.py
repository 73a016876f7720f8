"""The adapter `vicuna` with an engine that costs nothing (stand_in.py) in vLLM's place."""

import locale
import sys
from pathlib import Path
from typing import Any


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        sys.path.insert(0, str(Path(__file__).parent))
        from stand_in import StandIn
        from video_llava_server import engine
        from video_llava_server.vicuna import Vicuna

        setattr(engine, "AsyncLLM", StandIn)  # noqa: B010 (another class than it is declared with)
        if grammars := getattr(engine, "Grammars", None):  # not in older releases
            grammars.start = lambda *_args, **_options: None
        self._vicuna = Vicuna(args)
        self.execute, self.finalize = self._vicuna.execute, self._vicuna.finalize

    def execute(self, requests: list[Any]) -> None:
        self._vicuna.execute(requests)

    def finalize(self) -> None:
        self._vicuna.finalize()
