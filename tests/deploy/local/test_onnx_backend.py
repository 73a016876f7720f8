"""The stand-in for Triton's ONNX Runtime backend, without Triton."""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import video_llava_serve
from video_llava_serve.backends.onnxruntime.onnx_model import GraphError, OnnxModel, SessionSettings, TensorSpec

ADAPTER = Path(video_llava_serve.__file__).parent / "backends" / "onnxruntime" / "model.py"
X = {"name": "x", "data_type": "TYPE_FP32", "dims": [4]}
DOUBLE = {"name": "double", "data_type": "TYPE_FP32", "dims": [4]}
NEGATIVE = {"name": "negative", "data_type": "TYPE_FP32", "dims": [4]}


def config(**fields: Any) -> dict[str, Any]:
    return {"name": "tiny", "max_batch_size": 0, "input": [], "output": [], **fields}


@pytest.fixture
def graph_path(graph: Callable[..., onnx.ModelProto], tmp_path: Path) -> Path:
    onnx.save(graph(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def model(graph_path: Path) -> OnnxModel:
    return OnnxModel(graph_path, SessionSettings())


@pytest.fixture
def fixed_model(graph: Callable[..., onnx.ModelProto], tmp_path: Path) -> OnnxModel:
    onnx.save(graph(2), tmp_path / "fixed.onnx")
    return OnnxModel(tmp_path / "fixed.onnx", SessionSettings())


def test_completes_what_is_missing(model: OnnxModel) -> None:
    assert model.complete(config(max_batch_size=8)) == {
        "max_batch_size": 8,
        "input": [X],
        "output": [DOUBLE, NEGATIVE],
    }
    assert model.complete(config())["max_batch_size"] == 4


def test_keeps_what_is_there(model: OnnxModel) -> None:
    assert model.complete(config(input=[X], output=[DOUBLE])) == {}


def test_a_graph_without_a_batch_dimension(fixed_model: OnnxModel) -> None:
    completed = fixed_model.complete(config())
    assert completed["max_batch_size"] == 0
    assert completed["input"][0]["dims"] == [2, 4]
    with pytest.raises(GraphError, match="model does not support batching while non-zero max_batch_size"):
        fixed_model.complete(config(max_batch_size=8))


def test_a_tensor_without_dimensions_is_reshaped() -> None:
    assert TensorSpec("x", "TYPE_FP32", (-1,)).config(batched=True) == {
        "name": "x",
        "data_type": "TYPE_FP32",
        "dims": [1],
        "reshape": {"shape": []},
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input": []}, "configuration expects 0 inputs, model provides 1"),
        ({"input": [{**X, "name": "z"}]}, "unexpected inference input 'z', allowed inputs are: x"),
        ({"input": [{**X, "data_type": "TYPE_INT8"}]}, "datatype TYPE_INT8 for input 'x', model provides TYPE_FP32"),
        ({"input": [{**X, "dims": [5]}]}, r"tensor 'x': the model expects \[4\] .* specifies \[5\]"),
        ({"input": [{**X, "allow_ragged_batch": True}]}, "allow_ragged_batch of input 'x' is not supported"),
        ({"output": [{**DOUBLE, "dims": [-1]}]}, r"tensor 'double': the model expects \[4\] .* specifies \[-1\]"),
    ],
)
def test_refuses_what_does_not_match(model: OnnxModel, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        model.check(config(**{"max_batch_size": 8, "input": [X], "output": [DOUBLE], **fields}))


def test_accepts_its_own_completion(model: OnnxModel) -> None:
    model.check(config(**model.complete(config(max_batch_size=8))))


def test_settings() -> None:
    parameters = {
        "intra_op_thread_count": {"string_value": "3"},
        "execution_mode": {"string_value": "1"},
        "unknown": {"string_value": "x"},
    }
    settings = SessionSettings.from_config({"parameters": parameters, "optimization": {"graph": {"level": 1}}})
    assert settings == SessionSettings(intra_op_thread_count=3, execution_mode=1, optimization_level=1)
    assert settings.session_options().intra_op_num_threads == 3
    with pytest.raises(GraphError, match="parameter intra_op_thread_count is 'many', expected a number"):
        SessionSettings.from_config({"parameters": {"intra_op_thread_count": {"string_value": "many"}}})
    with pytest.raises(GraphError, match="execution_mode is 2, expected 0 or 1"):
        SessionSettings(execution_mode=2)


def test_not_a_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(GraphError, match=r"cannot load .*model\.onnx"):
        OnnxModel(tmp_path / "model.onnx", SessionSettings())


class FakeError(Exception):
    """pb_utils.TritonError."""

    INTERNAL, CANCELLED = "INTERNAL", "CANCELLED"

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass
class FakeTensor:
    """pb_utils.Tensor."""

    tensor_name: str
    array: np.ndarray

    def name(self) -> str:
        return self.tensor_name

    def as_numpy(self) -> np.ndarray:
        return self.array


@dataclass
class FakeRequest:
    """pb_utils.InferenceRequest."""

    value: float
    cancelled: bool = False
    outputs: Sequence[str] = ("double",)

    def is_cancelled(self) -> bool:
        return self.cancelled

    def requested_output_names(self) -> list[str]:
        return list(self.outputs)

    def inputs(self) -> list[FakeTensor]:
        return [FakeTensor("x", np.full((1, 4), self.value, np.float32))]


@dataclass
class FakeResponse:
    """pb_utils.InferenceResponse."""

    tensors: Sequence[FakeTensor] = field(default_factory=list)
    error: FakeError | None = None


@pytest.fixture
def adapter(graph_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The backend with one loaded model, as the stub would have made it."""
    version = graph_path.parent / "tiny" / "1"
    version.mkdir(parents=True)
    graph_path.rename(version / "model.onnx")
    fake = ModuleType("triton_python_backend_utils")
    vars(fake).update(TritonError=FakeError, Tensor=FakeTensor, InferenceResponse=FakeResponse)
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    spec = importlib.util.spec_from_file_location("adapter", ADAPTER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    instance = module.TritonPythonModel()
    text = '{"name": "tiny", "max_batch_size": 8, "input": [%s], "output": [%s]}'
    entry = '{"name": "%s", "data_type": "TYPE_FP32", "dims": [4]}'
    arguments = {
        "model_config": text % (entry % "x", entry % "double"),
        "model_repository": str(version.parent),
        "model_version": "1",
    }
    instance.initialize(arguments)
    return SimpleNamespace(execute=instance.execute, instance=instance)


def test_a_cancelled_request_is_answered_and_not_run(adapter: Any) -> None:
    first, cancelled, last = adapter.execute([FakeRequest(1), FakeRequest(2, cancelled=True), FakeRequest(3)])
    assert cancelled.error.code == "CANCELLED"
    assert cancelled.tensors == []
    np.testing.assert_array_equal(first.tensors[0].array, np.full((1, 4), 2, np.float32))
    np.testing.assert_array_equal(last.tensors[0].array, np.full((1, 4), 6, np.float32))


def test_nothing_left_to_run(adapter: Any) -> None:
    assert [response.error.code for response in adapter.execute([FakeRequest(1, cancelled=True)])] == ["CANCELLED"]


def test_a_failed_run_fails_one_request_of_a_batch(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = adapter.instance._model.run

    def fail_for_two(tensors: Any, output_names: Any) -> Any:
        if tensors["x"][0, 0] == 2:
            raise GraphError("onnx runtime error: 2")
        return run(tensors, output_names)

    monkeypatch.setattr(adapter.instance._model, "run", fail_for_two)
    first, failed, last = adapter.execute([FakeRequest(1), FakeRequest(2), FakeRequest(3)])
    assert (failed.error.code, str(failed.error)) == ("INTERNAL", "onnx runtime error: 2")
    assert [first.error, last.error] == [None, None]


def test_each_response_has_its_own_outputs(adapter: Any) -> None:
    first, second = adapter.execute([FakeRequest(1, outputs=["double"]), FakeRequest(2, outputs=["negative"])])
    assert [tensor.name() for tensor in first.tensors] == ["double"]
    assert [tensor.name() for tensor in second.tensors] == ["negative"]
