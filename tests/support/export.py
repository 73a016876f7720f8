"""A checkpoint becomes a model folder by the commands that users have, and is served in float32 for exact tokens."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ENGINE_ARGUMENTS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 2**28,
    "max_num_seqs": 64,
}

# Never those that a server has by default.
FREE_PORTS: dict[str, Any] = dict.fromkeys(("http_port", "grpc_port", "metrics_port"), 0)


def make_random_checkpoint(folder: Path, *options: str) -> Path:
    """Write the small random checkpoint."""
    _run(sys.executable, "-m", "video_llava_export.random_checkpoint", str(folder), *options)
    return folder


def export(checkpoint: Path, into: Path, *options: str) -> Path:
    """Export `checkpoint` below `into`; return the model folder."""
    command = str(Path(sys.executable).with_name("video-llava-export"))
    _run(command, str(checkpoint), "--into", str(into), "--id", "small", *options)
    return into / "small"


def _run(*command: str) -> None:
    # More threads than cores that are free wait for each other, busily.
    subprocess.run(command, check=True, timeout=280, env=os.environ | {"OMP_NUM_THREADS": "1"})
