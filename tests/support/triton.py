"""Requests as users of Triton's own client send them, and the server's counters."""

import queue
import re
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

grpcclient: Any = import_module("tritonclient.grpc")

_TYPES = {"uint8": "UINT8", "float32": "FP32", "bool": "BOOL", "object": "BYTES", "int32": "INT32"}


@dataclass
class Streamed:
    """Everything that came back for one request."""

    outputs: list[dict[str, np.ndarray]] = field(default_factory=list)
    num_final: int = 0
    error: str = ""

    @property
    def text(self) -> str:
        return "".join(output["text_output"][0].decode() for output in self.outputs)


def strings(*values: str) -> np.ndarray:
    return np.array([value.encode() for value in values], np.object_)


def flag(value: bool) -> np.ndarray:
    return np.array([value])


def to_input(name: str, array: np.ndarray) -> Any:
    tensor = grpcclient.InferInput(name, list(array.shape), _TYPES[array.dtype.name])
    tensor.set_data_from_numpy(array)
    return tensor


def store_features(url: str, features: np.ndarray) -> np.ndarray:
    """Call the feature store directly; return the reference, a STRING [1]."""
    with grpcclient.InferenceServerClient(url) as client:
        return client.infer("feature_store", [to_input("features", features)]).as_numpy("reference")


def stream(
    url: str, model: str, tensors: Mapping[str, np.ndarray], *, timeout_seconds: float = 60, **options: Any
) -> Streamed:
    """Send one request on a stream of its own and wait for its final response or error."""
    (streamed,) = stream_together(url, model, [tensors], timeout_seconds=timeout_seconds, **options)
    return streamed


def stream_together(
    url: str, model: str, requests: Sequence[Mapping[str, np.ndarray]], *, timeout_seconds: float = 60, **options: Any
) -> list[Streamed]:
    """Send requests one right after the other on one stream, and wait for the end of each; an error ends all."""
    responses: queue.Queue[tuple[Any, Any]] = queue.Queue()
    all_streamed = [Streamed() for _ in requests]
    by_id = {str(number): streamed for number, streamed in enumerate(all_streamed)}
    with grpcclient.InferenceServerClient(url) as client:
        # Leaving the block waits for the stream's end, which a server that hangs never gives.
        client.start_stream(lambda result, error: responses.put((result, error)), stream_timeout=2 * timeout_seconds)
        for request_id, tensors in zip(by_id, requests, strict=True):
            inputs = [to_input(name, array) for name, array in tensors.items()]
            client.async_stream_infer(model, inputs, request_id=request_id, enable_empty_final_response=True, **options)
        while not all(streamed.num_final for streamed in all_streamed):
            result, error = responses.get(timeout=timeout_seconds)
            if error is not None:
                for streamed in all_streamed:
                    streamed.error = error.message()
                break
            message = result.get_response()
            streamed = by_id[message.id]
            streamed.num_final += message.parameters["triton_final_response"].bool_param
            if message.outputs:
                streamed.outputs.append({output.name: result.as_numpy(output.name) for output in message.outputs})
        client.stop_stream()
    while not responses.empty():
        result, error = responses.get_nowait()
        assert error is None, f"a response after the final one: {error}"
        assert result is None, "a response after the final one"
    return all_streamed


def metrics(url: str) -> dict[str, float]:
    """Return {`name{model}`: value} of everything on the metrics endpoint, summed over the other labels."""
    values: dict[str, float] = {}
    for name, labels, value in re.findall(r"^([\w:]+)(?:\{(.*)\})? (\S+)$", metrics_page(url), re.MULTILINE):
        model = re.search(r'model="([^"]*)"', labels)
        key = f"{name}{{{model.group(1)}}}" if model else name
        values[key] = values.get(key, 0.0) + float(value)
    return values


def metrics_page(url: str) -> str:
    """Return the metrics endpoint's text."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def num_answered(url: str) -> int:
    """Return how many requests the engine has answered to their end."""
    finished = r'^vllm:request_success_total\{.*finished_reason="(?:stop|length)".*\} (\S+)$'
    return sum(int(float(value)) for value in re.findall(finished, metrics_page(url), re.MULTILINE))
