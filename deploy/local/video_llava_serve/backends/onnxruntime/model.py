"""Triton's backend `onnxruntime` for a server that has none: every model with that backend runs through here.

A Python-based backend: this file is the backend, `<model>/<version>/model.onnx` is the model. The same
`config.pbtxt` loads in NVIDIA's container, whose own backend takes this one's place.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]

# By its full name: the stub imports this file as `model`, outside of any package, from a copy.
from video_llava_serve.backends.onnxruntime.onnx_model import GraphError, OnnxModel, SessionSettings, Tensors


class TritonPythonModel:
    """One instance of one ONNX model."""

    @staticmethod
    def auto_complete_config(model_config: Any) -> Any:
        """Fill in what the graph knows: tensors, and whether it can batch."""
        config = model_config.as_dict()
        # Only the tensors are of interest here: do not spend time on optimizing the graph.
        model = OnnxModel(_graph_path(config, Path(pb_utils.get_model_dir())), SessionSettings(optimization_level=2))
        config.update(model.complete(config))
        if config["max_batch_size"] > 1 and "sequence_batching" not in config:
            model_config.set_dynamic_batching()
        return model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph and hold it against the configuration."""
        config = json.loads(args["model_config"])
        directory = Path(args["model_repository"]) / args["model_version"]
        self._model = OnnxModel(_graph_path(config, directory), SessionSettings.from_config(config))
        self._model.check(config)
        self._batches = config["max_batch_size"] > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer the requests of one batch with one run of the graph."""
        responses: dict[int, Any] = {}
        running: list[int] = []
        for index, request in enumerate(requests):
            if request.is_cancelled():
                responses[index] = _refusal("the client cancelled the request", pb_utils.TritonError.CANCELLED)
            else:
                running.append(index)
        for group in [running] if self._batches else [[index] for index in running]:
            responses.update(zip(group, self._answer([requests[index] for index in group]), strict=True))
        return [responses[index] for index in range(len(requests))]

    def _answer(self, requests: list[Any]) -> list[Any]:
        if not requests:
            return []
        wanted = set().union(*(request.requested_output_names() for request in requests))
        tensors = [_tensors(request) for request in requests]
        try:
            results = self._model.run_batch(tensors, wanted) if self._batches else [self._model.run(tensors[0], wanted)]
        except GraphError as exc:
            return [_refusal(str(exc), pb_utils.TritonError.INTERNAL) for _ in requests]
        return [_response(request, result) for request, result in zip(requests, results, strict=True)]


def _graph_path(config: dict[str, Any], directory: Path) -> Path:
    return directory / (config.get("default_model_filename") or "model.onnx")


def _tensors(request: Any) -> Tensors:
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def _response(request: Any, result: Tensors) -> Any:
    wanted = request.requested_output_names()
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, tensor) for name, tensor in result.items() if name in wanted]
    )


def _refusal(text: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
