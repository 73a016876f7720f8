"""The release's adapter, with a compiler of constraints that does as it is told, and slow ends (files beside this)."""

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
        """Replace both before the release's code imports them."""
        locale.setlocale(locale.LC_ALL, "C.UTF-8")
        from slow_compiles import compile_slowly
        from slow_ends import SlowEnds
        from video_llava_server import admission, grammar_worker

        grammar_worker.compile_constraint = compile_slowly
        admission.Admission = SlowEnds
        super().initialize(args)
