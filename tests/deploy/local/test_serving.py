"""What a real tritonserver does with ONNX models here is what it does with them in NVIDIA's container."""

import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException, np_to_triton_dtype
from video_llava_serve import LocalServer

grpcclient: Any = import_module("tritonclient.grpc")


@pytest.fixture(scope="module")
def client(server: LocalServer) -> Any:
    with grpcclient.InferenceServerClient(server.grpc_url) as connected:
        yield connected


Infer = Callable[..., Any]


@pytest.fixture(scope="module")
def infer(client: Any) -> Infer:
    def run(model: str, outputs: tuple[str, ...] = (), **tensors: np.ndarray) -> Any:
        inputs = []
        for name, tensor in tensors.items():
            inputs.append(grpcclient.InferInput(name, list(tensor.shape), np_to_triton_dtype(tensor.dtype)))
            inputs[-1].set_data_from_numpy(tensor)
        wanted = [grpcclient.InferRequestedOutput(name) for name in outputs] or None
        return client.infer(model, inputs, outputs=wanted, client_timeout=30)

    return run


def rows(value: float, num_rows: int = 1) -> np.ndarray:
    return np.full((num_rows, 4), value, np.float32)


def statistics(client: Any, model: str) -> Any:
    return client.get_inference_statistics(model).model_stats[0]


def tensors(entries: Any) -> dict[str, tuple[str, list[int]]]:
    return {entry.name: (entry.datatype, list(entry.shape)) for entry in entries}


@pytest.mark.parametrize(("model", "first"), [("batching", -1), ("bare", -1), ("fixed", 2)])
def test_tensors_come_from_the_graph(client: Any, model: str, first: int) -> None:
    metadata = client.get_model_metadata(model)
    assert tensors(metadata.inputs) == {"x": ("FP32", [first, 4])}
    assert tensors(metadata.outputs) == {"double": ("FP32", [first, 4]), "negative": ("FP32", [first, 4])}


def test_a_graph_that_can_batch_gets_tritons_default(client: Any) -> None:
    config = client.get_model_config("bare").config
    assert config.max_batch_size == 4
    assert config.HasField("dynamic_batching")
    assert client.get_model_config("fixed").config.max_batch_size == 0


def test_concurrent_requests_share_a_run(client: Any, infer: Infer) -> None:
    before = statistics(client, "batching")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda value: infer("batching", x=rows(value)).as_numpy("double"), range(16)))
    after = statistics(client, "batching")
    assert [result[0, 0] for result in results] == [2 * value for value in range(16)]
    assert after.inference_count - before.inference_count == 16
    assert after.execution_count - before.execution_count < 8


def test_requests_of_different_size_share_a_run(infer: Infer) -> None:
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda size: infer("batching", x=rows(size, size)).as_numpy("double"), (1, 2, 3)))
    for size, result in zip((1, 2, 3), results, strict=True):
        np.testing.assert_array_equal(result, rows(2 * size, size))


def test_a_model_without_a_batch_dimension(infer: Infer) -> None:
    np.testing.assert_array_equal(infer("fixed", x=rows(3, 2)).as_numpy("double"), rows(6, 2))


def test_only_what_was_asked_for_comes_back(infer: Infer) -> None:
    result = infer("batching", ("negative",), x=rows(1))
    assert result.as_numpy("double") is None
    np.testing.assert_array_equal(result.as_numpy("negative"), rows(-1))


def test_a_failed_run_fails_its_requests_and_nothing_else(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match=r"onnx runtime error: .*out of data bounds"):
        infer("picking", index=np.array([[7]]))
    assert infer("picking", index=np.array([[2]])).as_numpy("picked") == 2.5


def test_triton_refuses_a_wrong_shape_before_the_graph(infer: Infer) -> None:
    with pytest.raises(InferenceServerException, match=r"unexpected shape for input 'x'"):
        infer("batching", x=np.zeros((1, 5), np.float32))


def test_the_response_cache_answers_a_repeated_request(client: Any, infer: Infer) -> None:
    before = statistics(client, "cached").inference_stats.cache_hit.count
    first = infer("cached", x=rows(42)).as_numpy("double")
    again = infer("cached", x=rows(42)).as_numpy("double")
    np.testing.assert_array_equal(first, again)
    assert statistics(client, "cached").inference_stats.cache_hit.count == before + 1


def test_an_ensemble_adds_and_strips_the_batch_dimension(infer: Infer) -> None:
    np.testing.assert_array_equal(infer("chain", x=rows(5)[0]).as_numpy("y"), rows(20)[0])


def test_metrics(server: LocalServer, infer: Infer) -> None:
    infer("bare", x=rows(1))
    with urllib.request.urlopen(server.metrics_url, timeout=10) as page:
        assert 'nv_inference_count{model="bare",version="1"}' in page.read().decode()
