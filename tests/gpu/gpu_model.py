"""A graph on ONNX Runtime's CUDA provider. Imports little: each of Triton's encoders loads it."""

from pathlib import Path
from typing import Any

import onnxruntime
from video_llava_serve.backends.onnxruntime.onnx_model import OnnxModel, _session_options

# As configs/gpu.pbtxt sets them.
_CUDA = ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"})
_HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
PROVIDERS: list[Any] = [*([_CUDA] if _HAS_CUDA else []), "CPUExecutionProvider"]


class GpuModel(OnnxModel):
    """The graph on the GPU, if ONNX Runtime has a provider for it; with `optimize=False` on the CPU."""

    def __init__(self, path: Path, *, num_threads: int = 0, optimize: bool = True) -> None:
        if not optimize:
            super().__init__(path, num_threads=num_threads, optimize=False)
            return
        options = _session_options(num_threads, optimize=True)
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(path, options, providers=PROVIDERS)
        self._inputs, self._outputs = self._session.get_inputs(), self._session.get_outputs()

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """ONNX Runtime's own."""
        return self._session
