"""A checkpoint becomes a model repository by the commands that users have, in float32 for the reference's tokens."""

import subprocess
import sys
from pathlib import Path

ENGINE_ARGUMENTS = """{
  "dtype": "float32", "enforce_eager": true, "max_model_len": 1024, "kv_cache_memory_bytes": 268435456,
  "max_num_seqs": 64
}"""


def make_random_checkpoint(folder: Path) -> None:
    """Write the small random checkpoint."""
    _run(sys.executable, "-m", "video_llava_export.random_checkpoint", str(folder))


def export(checkpoint: Path, repository: Path) -> None:
    """Write `checkpoint` into a new model repository."""
    command = str(Path(sys.executable).with_name("video-llava-export"))
    _run(command, str(checkpoint), "--into", str(repository), "--vllm-arguments", ENGINE_ARGUMENTS)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=280)
