"""Stands in for Triton's ONNX Runtime backend on a GPU: that of `video-llava-serve`, but one run for a whole batch."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]
from video_llava_serve.backends.onnxruntime import model as on_cpu

# Triton's Python ignores PYTHONPATH.
sys.path.append(f"{os.environ['KIT']}/source/tests")
from gpu.gpu_model import GpuModel

on_cpu.OnnxModel = GpuModel


class TritonPythonModel(on_cpu.TritonPythonModel):
    """One instance of one encoder."""

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch, whose frames Triton lets differ in number by nothing but the first axis."""
        frames = [pb_utils.get_input_tensor_by_name(request, "frames").as_numpy() for request in requests]
        features = self._model.run({"frames": np.concatenate(frames)}, ["features"])["features"]
        parts = np.split(features, np.cumsum([len(each) for each in frames])[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("features", part)]) for part in parts]
