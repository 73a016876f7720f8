"""Lets the adapters be imported where torch and vLLM are not installed: what needs them is replaced by mocks."""

import sys
from unittest.mock import MagicMock

_MODULES = (
    *("torch", "safetensors", "safetensors.torch"),
    *("vllm", "vllm.outputs", "vllm.sampling_params", "vllm.v1", "vllm.v1.engine"),
)
# Those that look into vLLM's classes when they are imported.
_OF_THE_ENGINE = ("engine", "engine_metrics", "grammars", "prompt", "prompt_tensor", "sampling")


def install() -> None:
    for name in (*_MODULES, *(f"video_llava_server.{name}" for name in _OF_THE_ENGINE)):
        sys.modules[name] = MagicMock(name=name)
    # What is counted with.
    sys.modules["video_llava_server.sampling"].parse_sampling.return_value.n = 1
    sys.modules["video_llava_server.prompt"].PromptBuilder.return_value.build.return_value.embeddings.nbytes = 1
