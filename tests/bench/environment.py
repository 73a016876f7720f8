"""The environment that `video-llava-serve` gives its engine, for the contestants that run one without it."""

import os

from video_llava_serve._command import server_environment
from video_llava_serve._wheel import TritonWheel

from .checkpoints import Checkpoints


def set_engine_environment(checkpoints: Checkpoints) -> None:
    """Before vLLM is imported."""
    environment = server_environment(TritonWheel.find(), checkpoints.engine_arguments(), os.environ)
    for name, value in environment.items():
        if name.startswith(("VLLM_", "GOMP_", "HF_", "TORCH")):
            os.environ[name] = value
