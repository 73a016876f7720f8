"""The video encoder on ONNX Runtime's CUDA provider."""

from typing import Any

import numpy as np
import onnxruntime
from bench.machine import best_seconds
from bench.workloads import frames_of
from video_llava_server.manifest import encoder_path

from .gpu_model import GpuModel
from .plan import CHECKPOINTS, DEVICE, ENCODER_BATCHES
from .smoke import use_first_that_works


def run() -> dict[str, Any]:
    """Seconds for so many videos in one run, with and without copies between host and device."""
    use_first_that_works()
    model = GpuModel(CHECKPOINTS.model / encoder_path("video"))
    batches = []
    for size in ENCODER_BATCHES:
        frames = np.stack([frames_of(clip) for clip in range(size)])
        with_copies = best_seconds(lambda frames=frames: model.run({"frames": frames}, ["features"]))
        seconds = _seconds_on_device(model.session, frames)
        batches.append({"videos": size, "seconds": seconds, "seconds_with_copies": with_copies})
    return {"providers": model.session.get_providers(), "batches": batches}


def _seconds_on_device(session: onnxruntime.InferenceSession, frames: np.ndarray) -> float:
    binding = session.io_binding()
    binding.bind_ortvalue_input("frames", onnxruntime.OrtValue.ortvalue_from_numpy(frames, DEVICE, 0))
    binding.bind_output("features", DEVICE)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return best_seconds(call)
