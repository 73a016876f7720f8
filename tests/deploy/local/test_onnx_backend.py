"""The stand-in for Triton's ONNX Runtime backend, without Triton."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import video_llava_serve
from support import fake_triton
from support.fake_triton import FakeRequest
from video_llava_serve.backends.onnxruntime.onnx_model import GraphError, OnnxModel

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
    return OnnxModel(graph_path)


def test_completes_what_is_missing_and_keeps_what_is_there(model: OnnxModel) -> None:
    completed = {"max_batch_size": 8, "input": [X], "output": [DOUBLE, NEGATIVE]}
    assert model.complete(config(max_batch_size=8)) == completed
    assert model.complete(config())["max_batch_size"] == 4
    assert model.complete(config(input=[X], output=[DOUBLE])) == {}


def test_a_graph_without_a_batch_dimension(graph: Callable[..., onnx.ModelProto], tmp_path: Path) -> None:
    onnx.save(graph(2), tmp_path / "fixed.onnx")
    fixed = OnnxModel(tmp_path / "fixed.onnx")
    completed = fixed.complete(config())
    assert completed["max_batch_size"] == 0
    assert completed["input"][0]["dims"] == [2, 4]
    with pytest.raises(GraphError, match="model does not support batching while non-zero max_batch_size"):
        fixed.complete(config(max_batch_size=8))


def test_not_a_graph(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(GraphError, match=r"cannot load .*model\.onnx"):
        OnnxModel(tmp_path / "model.onnx")


def request(value: float, *, cancelled: bool = False, outputs: tuple[str, ...] = ("double",)) -> FakeRequest:
    return FakeRequest({"x": np.full((1, 4), value, np.float32)}, cancelled=cancelled, outputs=outputs)


@pytest.fixture
def adapter(graph_path: Path) -> Any:
    """The backend with one loaded model, as the stub would have made it."""
    version = graph_path.parent / "tiny" / "1"
    version.mkdir(parents=True)
    graph_path.rename(version / "model.onnx")
    fake_triton.install()
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
        "model_name": "tiny",
    }
    instance.initialize(arguments)
    return instance


def test_a_cancelled_request_is_answered_and_not_run(adapter: Any) -> None:
    first, cancelled, last = adapter.execute([request(1), request(2, cancelled=True), request(3)])
    assert (cancelled.error.code, cancelled.tensors) == ("CANCELLED", {})
    np.testing.assert_array_equal(first.tensors["double"], np.full((1, 4), 2, np.float32))
    np.testing.assert_array_equal(last.tensors["double"], np.full((1, 4), 6, np.float32))


def test_a_failed_run_fails_one_request_of_a_batch(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = adapter._model.run

    def fail_for_two(tensors: Any, output_names: Any) -> Any:
        if tensors["x"][0, 0] == 2:
            raise GraphError("onnx runtime error: 2")
        return run(tensors, output_names)

    monkeypatch.setattr(adapter._model, "run", fail_for_two)
    first, failed, last = adapter.execute([request(1), request(2), request(3)])
    assert (failed.error.code, str(failed.error)) == ("INTERNAL", "onnx runtime error: 2")
    assert [first.error, last.error] == [None, None]


def test_each_response_has_its_own_outputs(adapter: Any) -> None:
    responses = adapter.execute([request(1, outputs=("double",)), request(2, outputs=("negative",))])
    assert [set(response.tensors) for response in responses] == [{"double"}, {"negative"}]
