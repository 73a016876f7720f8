"""The video encoder on ONNX Runtime's CUDA provider."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bench.machine import _best_seconds
from bench.workloads import frames_of
from video_llava_serve.backends.onnxruntime.onnx_model import OnnxModel
from video_llava_server.manifest import encoder_path

from .plan import CHECKPOINTS, DEVICE, ENCODER_BATCHES
from .smoke import use_first_that_works

# As configs/gpu.pbtxt sets them.
_CUDA = ("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"})
_HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
PROVIDERS: list[Any] = [*([_CUDA] if _HAS_CUDA else []), "CPUExecutionProvider"]


class GpuModel(OnnxModel):
    """The graph on the GPU, if ONNX Runtime has a provider for it."""

    def __init__(self, path: Path, *, num_threads: int = 0, optimize: bool = True) -> None:
        super().__init__(path, num_threads=num_threads, optimize=False)
        if optimize:
            options: Any = self._session._sess_options
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
            options.enable_mem_pattern = False
            self._session.set_providers(PROVIDERS)

    def seconds(self, frames: np.ndarray) -> float:
        """The best time of one run whose input and output stay on the device."""
        binding = self._session.io_binding()
        binding.bind_ortvalue_input("frames", onnxruntime.OrtValue.ortvalue_from_numpy(frames, DEVICE, 0))
        binding.bind_output("features", DEVICE)

        def call() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return _best_seconds(call)


def run() -> dict[str, Any]:
    """Seconds for so many videos in one run, with and without copies between host and device."""
    use_first_that_works()
    model = GpuModel(CHECKPOINTS.model / encoder_path("video"))
    batches = []
    for size in ENCODER_BATCHES:
        frames = np.stack([frames_of(clip) for clip in range(size)])
        with_copies = _best_seconds(lambda frames=frames: model.run({"frames": frames}, ["features"]))
        batches.append({"videos": size, "seconds": model.seconds(frames), "seconds_with_copies": with_copies})
    return {"providers": model._session.get_providers(), "batches": batches}
