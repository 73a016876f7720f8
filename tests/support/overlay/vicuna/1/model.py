"""The release's adapter, with a compiler of constraints that does as it is told (slow_compiles.py)."""

import locale
import runpy
from pathlib import Path
from typing import Any

import video_llava_server

_ROOT = Path(video_llava_server.__file__).parents[3]
_Release: Any = runpy.run_path(str(_ROOT / "model_repository/vicuna/1/model.py"))["TritonPythonModel"]


class TritonPythonModel(_Release):
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Replace the compiler before the release's code imports it."""
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        from slow_compiles import compile_slowly
        from video_llava_server import grammar_worker

        grammar_worker.compile_constraint = compile_slowly
        super().initialize(args)
