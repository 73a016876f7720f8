"""Tiny model repositories for a real tritonserver."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from support.launcher import Launcher
from video_llava_serve import LocalServer

# One instance and a pause to collect in: whether requests meet in a batch must not depend on luck.
BATCHING = """
backend: "onnxruntime"
max_batch_size: 8
instance_group [{ count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 200000 }
"""
CACHED = """
backend: "onnxruntime"
max_batch_size: 8
instance_group [{ count: 1 }]
response_cache { enable: true }
"""
CHAIN = """
platform: "ensemble"
max_batch_size: 0
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
ensemble_scheduling {
  step [
    {
      model_name: "cached" model_version: -1
      input_map { key: "x" value: "x" }
      output_map { key: "double" value: "middle" }
    },
    {
      model_name: "batching" model_version: -1
      input_map { key: "x" value: "middle" }
      output_map { key: "double" value: "y" }
    }
  ]
}
"""
FAILING = """
backend: "python"
input [{ name: "x" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [1] }]
"""
FAILING_MODEL = """
class TritonPythonModel:
    def initialize(self, args):
        try:
            {}["weights"]
        except KeyError as exc:
            raise RuntimeError("the weights are not there") from exc

    def execute(self, requests):
        return []
"""


def doubling_graph(first_dimension: int | str = "batch") -> onnx.ModelProto:
    """`x` of 4 floats in each row -> `double` and `negative` of the same shape."""
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [first_dimension, 4])
        for name in ("x", "double", "negative")
    }
    nodes = [helper.make_node("Add", ["x", "x"], ["double"]), helper.make_node("Neg", ["x"], ["negative"])]
    return _model(nodes, [tensors["x"]], [tensors["double"], tensors["negative"]])


def picking_graph() -> onnx.ModelProto:
    """`index` -> the entry of a table of 3; any other index fails the run."""
    index = helper.make_tensor_value_info("index", TensorProto.INT64, ["batch", 1])
    picked = helper.make_tensor_value_info("picked", TensorProto.FLOAT, ["batch", 1])
    table = helper.make_tensor("table", TensorProto.FLOAT, [3], [0.5, 1.5, 2.5])
    return _model([helper.make_node("Gather", ["table", "index"], ["picked"])], [index], [picked], [table])


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write_model(repository: Path, name: str, config: str, content: onnx.ModelProto | str | None = None) -> None:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config, encoding="utf-8")
    if isinstance(content, onnx.ModelProto):
        onnx.save(content, version / "model.onnx")
    elif content is not None:
        (version / "model.py").write_text(content, encoding="utf-8")


@pytest.fixture(scope="session")
def graph() -> Callable[..., onnx.ModelProto]:
    return doubling_graph


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model, which starts fast."""
    repository = tmp_path_factory.mktemp("small")
    write_model(repository, "batching", BATCHING, doubling_graph())
    return repository


@pytest.fixture(scope="session")
def failing_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("failing")
    write_model(repository, "vicuna", FAILING, FAILING_MODEL)
    return repository


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository, "batching", BATCHING, doubling_graph())
    write_model(repository, "cached", CACHED, doubling_graph())
    write_model(repository, "bare", 'backend: "onnxruntime"', doubling_graph())
    write_model(repository, "fixed", 'backend: "onnxruntime"', doubling_graph(2))
    write_model(repository, "picking", BATCHING, picking_graph())
    write_model(repository, "chain", CHAIN)
    with LocalServer(repository=repository, http_port=0, grpc_port=0, metrics_port=0) as running:
        yield running


@pytest.fixture
def launch() -> Iterator[Callable[..., Launcher]]:
    launchers: list[Launcher] = []

    def start(*arguments: str | Path) -> Launcher:
        launchers.append(Launcher(*arguments))
        return launchers[-1]

    yield start
    for launcher in launchers:
        launcher.end()
