"""An ONNX graph as Triton's own backend would serve it; knows nothing of Triton's Python API.

Source of the rules: onnxruntime_backend, src/onnxruntime.cc. A model's configuration is here the dictionary that Triton
hands to a Python model.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

# Triton's own, for a graph that can batch and a configuration that does not say how much.
_DEFAULT_MAX_BATCH_SIZE = 4
_DYNAMIC = -1
_DATA_TYPES = {
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
}


class GraphError(Exception):
    """The graph, or one run of it, was refused."""


class OnnxModel:
    """A loaded graph. Raises `GraphError` when the file is no graph or has a tensor of a type not listed here."""

    def __init__(self, path: Path, *, num_threads: int = 0, optimize: bool = True) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                path, _session_options(num_threads, optimize=optimize), providers=["CPUExecutionProvider"]
            )
        except Exception as exc:
            raise GraphError(f"cannot load {path}: {exc}") from exc
        self._inputs, self._outputs = self._session.get_inputs(), self._session.get_outputs()

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that Triton's backend would fill in: `max_batch_size`, `input`, `output`.

        A configuration that lists inputs and outputs keeps its own. Raises `GraphError` when the configuration
        wants batches of a graph that has no batch dimension.
        """
        if config["input"] and config["output"]:
            return {}
        can_batch = all(_shape(node)[:1] == [_DYNAMIC] for node in (*self._inputs, *self._outputs))
        if config["max_batch_size"] and not can_batch:
            raise GraphError(
                f"autofill failed for model '{config['name']}': model does not support batching while non-zero "
                "max_batch_size is specified"
            )
        max_batch_size = config["max_batch_size"] or (_DEFAULT_MAX_BATCH_SIZE if can_batch else 0)
        first = 1 if max_batch_size else 0
        return {
            "max_batch_size": max_batch_size,
            "input": config["input"] or [_entry(node, first) for node in self._inputs],
            "output": config["output"] or [_entry(node, first) for node in self._outputs],
        }

    def run(self, tensors: Mapping[str, np.ndarray], output_names: Collection[str]) -> dict[str, np.ndarray]:
        """Run the graph once for the named outputs. Raises `GraphError`."""
        wanted = [node.name for node in self._outputs if node.name in output_names]
        try:
            results = self._session.run(wanted, dict(tensors))
        except Exception as exc:
            raise GraphError(f"onnx runtime error: {exc}") from exc
        return {name: np.asarray(result) for name, result in zip(wanted, results, strict=True)}


def _session_options(num_threads: int, *, optimize: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or len(os.sched_getaffinity(0))
    # The language model needs the same cores as soon as a run ends; waiting threads must not spin.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _shape(node: onnxruntime.NodeArg) -> list[int]:
    return [size if isinstance(size, int) else _DYNAMIC for size in node.shape]


def _entry(node: onnxruntime.NodeArg, first: int) -> dict[str, Any]:
    """Return a tensor's entry in a configuration, whose dims leave out the batch dimension."""
    if node.type not in _DATA_TYPES:
        raise GraphError(f"tensor '{node.name}' is {node.type}, supported are {', '.join(_DATA_TYPES)}")
    return {"name": node.name, "data_type": _DATA_TYPES[node.type], "dims": _shape(node)[first:]}
