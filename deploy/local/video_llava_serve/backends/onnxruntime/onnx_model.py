"""An ONNX graph with the rules of Triton's own backend for it; knows nothing of Triton's Python API.

Source of the rules: github.com/triton-inference-server/onnxruntime_backend, src/onnxruntime.cc. A model's
configuration is here the dictionary that Triton hands to a Python model.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

# Triton's own, for a graph that can batch and a configuration that does not say how much.
_DEFAULT_MAX_BATCH_SIZE = 4
_DYNAMIC = -1
# Not here: bfloat16, which numpy does not have.
_DATA_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
_OPTIMIZATION_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

Tensors = Mapping[str, np.ndarray]


class GraphError(Exception):
    """The graph, or one run of it, was refused."""


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the graph."""

    name: str
    data_type: str
    """Triton's name: TYPE_FP32"""
    shape: tuple[int, ...]
    """with the batch dimension, -1 where the graph leaves it open"""

    def config(self, *, batched: bool) -> dict[str, Any]:
        """The entry of a model's configuration; its dims leave out the batch dimension of a batching model."""
        entry: dict[str, Any] = {"name": self.name, "data_type": self.data_type, "dims": list(self.dims(batched))}
        if not entry["dims"]:
            # The configuration cannot say "no dimensions" in any other way.
            entry["dims"] = [1]
            if batched:
                entry["reshape"] = {"shape": []}
        return entry

    def dims(self, batched: bool) -> tuple[int, ...]:
        """The shape as a model's configuration counts it."""
        return self.shape[1:] if batched else self.shape


@dataclass(frozen=True)
class SessionSettings:
    """What a configuration can set about the run; names and meanings are those of Triton's backend."""

    intra_op_thread_count: int = 0
    """0: one thread for each core that this process may use"""
    inter_op_thread_count: int = 0
    execution_mode: int = 0
    """1: branches of the graph in parallel"""
    optimization_level: int = 0
    """-1, 0, 1, 2 of `optimization { graph { level } }`: basic, all, extended, none"""

    def __post_init__(self) -> None:
        if self.execution_mode not in (0, 1):
            raise GraphError(f"execution_mode is {self.execution_mode}, expected 0 or 1")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "SessionSettings":
        """Raises `GraphError` for a value that is not a number."""
        graph = config.get("optimization", {}).get("graph", {})
        return cls(
            intra_op_thread_count=_int_parameter(config, "intra_op_thread_count"),
            inter_op_thread_count=_int_parameter(config, "inter_op_thread_count"),
            execution_mode=_int_parameter(config, "execution_mode"),
            optimization_level=int(graph.get("level", 0)),
        )

    def session_options(self) -> onnxruntime.SessionOptions:
        """As ONNX Runtime takes them."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.intra_op_thread_count or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = self.inter_op_thread_count
        options.execution_mode = (
            onnxruntime.ExecutionMode.ORT_PARALLEL if self.execution_mode else onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        )
        options.graph_optimization_level = _OPTIMIZATION_LEVELS.get(
            self.optimization_level, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        )
        # The language model needs the same cores as soon as a run ends; waiting threads must not burn them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        return options


class OnnxModel:
    """A loaded graph. Raises `GraphError` when the file is no graph or has a tensor without a numpy type."""

    def __init__(self, path: Path, settings: SessionSettings) -> None:
        try:
            self._session = onnxruntime.InferenceSession(
                path, settings.session_options(), providers=["CPUExecutionProvider"]
            )
        except Exception as exc:
            raise GraphError(f"cannot load {path}: {exc}") from exc
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())

    @property
    def can_batch(self) -> bool:
        """Whether the first dimension of every tensor is open."""
        return all(spec.shape[:1] == (_DYNAMIC,) for spec in (*self.inputs, *self.outputs))

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that Triton's backend would fill in: `max_batch_size`, `input`, `output`.

        A configuration that lists inputs and outputs keeps its own. Raises `GraphError` when the configuration
        wants batches of a graph that cannot.
        """
        if config["input"] and config["output"]:
            return {}
        if config["max_batch_size"] and not self.can_batch:
            raise GraphError(
                f"autofill failed for model '{config['name']}': model does not support batching while non-zero "
                "max_batch_size is specified"
            )
        max_batch_size = config["max_batch_size"] or (_DEFAULT_MAX_BATCH_SIZE if self.can_batch else 0)
        batched = max_batch_size > 0
        return {
            "max_batch_size": max_batch_size,
            "input": config["input"] or [spec.config(batched=batched) for spec in self.inputs],
            "output": config["output"] or [spec.config(batched=batched) for spec in self.outputs],
        }

    def check(self, config: Mapping[str, Any]) -> None:
        """Raise `GraphError` unless the complete `config` describes this graph."""
        if len(config["input"]) != len(self.inputs):
            raise GraphError(
                f"unable to load model '{config['name']}', configuration expects {len(config['input'])} inputs, "
                f"model provides {len(self.inputs)}"
            )
        batched = config["max_batch_size"] > 0
        for entry in config["input"]:
            _check_entry(entry, self.inputs, kind="input", batched=batched, exact=False)
        for entry in config["output"]:
            _check_entry(entry, self.outputs, kind="output", batched=batched, exact=True)

    def run(self, tensors: Tensors, output_names: Collection[str]) -> dict[str, np.ndarray]:
        """One run of the graph for the named outputs. Raises `GraphError`."""
        wanted = [spec.name for spec in self.outputs if spec.name in output_names]
        feeds = {name: _to_graph(tensor) for name, tensor in tensors.items()}
        try:
            results = self._session.run(wanted, feeds)
        except Exception as exc:
            raise GraphError(f"onnx runtime error: {exc}") from exc
        return {name: np.asarray(result) for name, result in zip(wanted, results, strict=True)}


def _spec(node: onnxruntime.NodeArg) -> TensorSpec:
    if node.type not in _DATA_TYPES:
        raise GraphError(f"tensor '{node.name}' is {node.type}, supported are {', '.join(_DATA_TYPES)}")
    shape = tuple(size if isinstance(size, int) else _DYNAMIC for size in node.shape)
    return TensorSpec(node.name, _DATA_TYPES[node.type], shape)


def _int_parameter(config: Mapping[str, Any], name: str) -> int:
    text = config.get("parameters", {}).get(name, {}).get("string_value", "0")
    try:
        return int(text)
    except ValueError as exc:
        raise GraphError(f"parameter {name} is {text!r}, expected a number") from exc


def _check_entry(
    entry: Mapping[str, Any], specs: Sequence[TensorSpec], *, kind: str, batched: bool, exact: bool
) -> None:
    by_name = {spec.name: spec for spec in specs}
    name = entry["name"]
    if name not in by_name:
        raise GraphError(f"unexpected inference {kind} '{name}', allowed {kind}s are: {', '.join(by_name)}")
    spec = by_name[name]
    if entry["data_type"] != spec.data_type:
        raise GraphError(
            f"configuration expects datatype {entry['data_type']} for {kind} '{name}', model provides {spec.data_type}"
        )
    if entry.get("allow_ragged_batch"):
        raise GraphError(f"allow_ragged_batch of input '{name}' is not supported on this server")
    if batched and spec.shape[:1] != (_DYNAMIC,):
        raise GraphError(f"{kind} '{name}': the first dimension of {list(spec.shape)} cannot be a batch")
    dims = tuple(int(size) for size in entry["reshape"]["shape"] if size) if "reshape" in entry else entry["dims"]
    _check_dims(name, tuple(int(size) for size in dims), spec.dims(batched), exact=exact)


def _check_dims(name: str, config: tuple[int, ...], graph: tuple[int, ...], *, exact: bool) -> None:
    open_ok = not exact
    fits = len(config) == len(graph) and all(
        theirs == ours or (open_ok and theirs == _DYNAMIC) for ours, theirs in zip(config, graph, strict=True)
    )
    # A scalar is [1] in a configuration.
    if not fits and not (graph == () and set(config) <= {1}):
        raise GraphError(
            f"tensor '{name}': the model expects {list(graph)} (without the batch dimension) but the model "
            f"configuration specifies {list(config)}"
        )


def _to_graph(tensor: np.ndarray) -> np.ndarray:
    # Triton's strings are bytes.
    return np.char.decode(tensor.astype(np.bytes_), "utf-8") if tensor.dtype == np.object_ else tensor
