"""A checkpoint becomes a model repository by the commands that users have, in float32 for the reference's tokens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ENGINE_ARGUMENTS = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 2**28,
    "max_num_seqs": 64,
}


def make_random_checkpoint(folder: Path) -> None:
    """Write the small random checkpoint."""
    _run(sys.executable, "-m", "video_llava_export.random_checkpoint", str(folder))


def export(checkpoint: Path, repository: Path, **engine_arguments: Any) -> None:
    """Write `checkpoint` into a new model repository; `engine_arguments` win over those above."""
    command = str(Path(sys.executable).with_name("video-llava-export"))
    arguments = json.dumps(ENGINE_ARGUMENTS | engine_arguments)
    _run(command, str(checkpoint), "--into", str(repository), "--vllm-arguments", arguments)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=280)
