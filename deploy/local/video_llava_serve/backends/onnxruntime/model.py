"""Triton's backend `onnxruntime` for a server that has none: every model with that backend runs through here.

A Python-based backend: this file is the backend, a graph in `<model>/<version>/` is the model. The same `config.pbtxt`
loads in NVIDIA's container, which has Triton's own backend.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

# By its full name: the stub imports this file as `model`, outside of any package, from a copy.
from video_llava_serve.backends.onnxruntime.onnx_model import GraphError, OnnxModel
from video_llava_server.triton import say_loaded


class TritonPythonModel:
    """One instance of one ONNX model."""

    @staticmethod
    def auto_complete_config(model_config: Any) -> Any:
        """Fill in what the graph knows: tensors, and whether it can batch."""
        config = model_config.as_dict()
        model = OnnxModel(_graph_path(config, Path(pb_utils.get_model_dir())), optimize=False)
        config.update(model.complete(config))
        if config["max_batch_size"] > 1 and "sequence_batching" not in config:
            model_config.set_dynamic_batching()
        return model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph."""
        config = json.loads(args["model_config"])
        directory = Path(args["model_repository"]) / args["model_version"]
        num_threads = config.get("parameters", {}).get("intra_op_thread_count", {}).get("string_value", "0")
        self._model = OnnxModel(_graph_path(config, directory), num_threads=int(num_threads))
        say_loaded(args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch, each by a run of its own.

        One request fills all cores of a CPU. In a batch of eight each would take a fifth more time: activations no
        longer fit in the cores' caches. GPUs gain from batches, but have Triton's own backend.
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        if request.is_cancelled():
            return _refusal("the client cancelled the request", pb_utils.TritonError.CANCELLED)
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            result = self._model.run(tensors, request.requested_output_names())
        except GraphError as exc:
            return _refusal(str(exc), pb_utils.TritonError.INTERNAL)
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, tensor) for name, tensor in result.items()])


def _graph_path(config: dict[str, Any], directory: Path) -> Path:
    return directory / (config.get("default_model_filename") or "model.onnx")


def _refusal(text: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
