"""The environment that `video-llava-serve` gives its engine, for the contestants that run one without it."""

import os
from typing import Any

from video_llava_serve._command import server_environment
from video_llava_serve._wheel import TritonWheel

from .checkpoints import Checkpoints

FREE_PORTS: dict[str, Any] = {"http_port": 0, "grpc_port": 0, "metrics_port": 0}
"""For a `LocalServer`."""


def set_engine_environment(checkpoints: Checkpoints) -> None:
    """Before vLLM is imported."""
    environment = server_environment(TritonWheel.find(), checkpoints.repository, os.environ)
    for name, value in environment.items():
        if name.startswith(("VLLM_", "GOMP_", "HF_", "TORCH")):
            os.environ[name] = value
