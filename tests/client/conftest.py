"""A server that speaks Triton's protocol without a model behind it, and videos made on the spot."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support import videos
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor
from video_llava_client import VideoLlava

# Generated, without types.
messages: Any = import_module("tritonclient.grpc.service_pb2")
services: Any = import_module("tritonclient.grpc.service_pb2_grpc")

DTYPES = {"BOOL": np.bool_, "UINT8": np.uint8, "UINT32": np.uint32}
STAGE_SECONDS = {"encode": 0.25, "queue": 0.5, "prefill": 0.125, "decode": 2.0}
WORDS = (" The", " cat", " jümps.")  # the first as the model writes it, after `ASSISTANT:`

Script = Callable[[dict[str, Any], Any, Any], Iterator[Any]]


def read_inputs(request: Any) -> dict[str, Any]:
    """Return the request's tensors by tritonclient's own reading, {name: array, text or truth value}."""
    inputs = {}
    for tensor, data in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            inputs[tensor.name] = deserialize_bytes_tensor(data)[0].decode()
        else:
            array = np.frombuffer(data, DTYPES[tensor.datatype]).reshape(tensor.shape)
            inputs[tensor.name] = bool(array[0]) if tensor.datatype == "BOOL" else array
    return inputs


def response(outputs: dict[str, Any], *, final: bool = False) -> Any:
    """Return a message of the stream with `outputs`, texts and numbers of one element each."""
    message = messages.ModelStreamInferResponse()
    for name, value in outputs.items():
        is_text = isinstance(value, str)
        message.infer_response.outputs.add(name=name, datatype="BYTES" if is_text else "UINT32", shape=[1])
        array = np.array([value.encode()], np.object_) if is_text else np.array([value], np.uint32)
        data = serialize_byte_tensor(array).item() if is_text else array.tobytes()
        message.infer_response.raw_output_contents.append(data)
    message.infer_response.parameters["triton_final_response"].bool_param = final
    return message


def delta(text: str, token: int, *, reason: str = "None", final: bool = False, **more: Any) -> Any:
    """Return one delta of one token, as the server sends it."""
    outputs = {"text_output": text, "finish_reason": reason, "num_input_tokens": 2063, "num_output_tokens": 1}
    outputs |= {"token_ids": f"[{token}]", "num_cached_tokens": 2048}
    if reason != "None":
        outputs["stage_seconds"] = json.dumps(STAGE_SECONDS)
    return response(outputs | more, final=final)


def error(text: str) -> Any:
    return messages.ModelStreamInferResponse(error_message=text)


def answer(inputs: dict[str, Any], _request: Any, _context: Any) -> Iterator[Any]:
    """Answer as the model would: word by word, or all at once."""
    if not inputs["stream"]:
        yield delta("".join(WORDS), 3, reason="stop", final=True, token_ids="[1, 2, 3]", num_output_tokens=3)
        return
    yield delta(WORDS[0], 1)
    yield delta(WORDS[1], 2)
    yield delta(WORDS[2], 3, reason="stop", final=True)


class FakeTriton(services.GRPCInferenceServiceServicer):
    """Answers by `script`, and keeps what it was asked."""

    def __init__(self) -> None:
        self.script: Script = answer
        self.requests: list[Any] = []
        self.inputs: list[dict[str, Any]] = []
        self.asked_metadata: list[str] = []
        self.seconds_left: list[float] = []
        self.frame_shape = [-1, -1, 56, 56, 3]
        self.peers: set[str] = set()
        self.cancelled = threading.Event()
        self.url = ""

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.asked_metadata.append(request.name)
        if request.name not in ("video_encoder", "image_encoder"):
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        metadata = messages.ModelMetadataResponse(name=request.name)
        metadata.inputs.add(name="frames", datatype="UINT8", shape=self.frame_shape)
        return metadata

    def ServerMetadata(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return messages.ServerMetadataResponse(name="triton", version="2.51.0")

    def RepositoryIndex(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return messages.RepositoryIndexResponse()

    def ModelInfer(self, _request: Any, context: Any) -> Any:  # noqa: N802
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "unexpected inference output 'limits' for model 'intake'")

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        self.peers.add(context.peer())
        self.seconds_left.append(context.time_remaining())
        finished = threading.Event()
        context.add_callback(lambda: None if finished.is_set() else self.cancelled.set())
        for request in request_iterator:
            self.requests.append(request)
            self.inputs.append(read_inputs(request))
            yield from self.script(self.inputs[-1], request, context)
        finished.set()


@pytest.fixture
def triton() -> Iterator[FakeTriton]:
    fake = FakeTriton()
    server = grpc.server(ThreadPoolExecutor(max_workers=40), options=[("grpc.max_receive_message_length", -1)])
    services.add_GRPCInferenceServiceServicer_to_server(fake, server)
    fake.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield fake
    server.stop(grace=None).wait()


@pytest.fixture
def client(triton: FakeTriton) -> Iterator[VideoLlava]:
    with VideoLlava(triton.url, timeout_seconds=20) as client:
        yield client


@pytest.fixture
def send() -> Any:
    """What a script sends: `send.delta(...)`, `send.response(...)`, `send.error(...)`."""

    class Send:
        delta = staticmethod(delta)
        response = staticmethod(response)
        error = staticmethod(error)

    return Send


@pytest.fixture(scope="session")
def bikes() -> Path:
    return Path(__file__).parents[1] / "media" / "bikes.mp4"


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return videos.write_video


@pytest.fixture(scope="session")
def write_sound() -> Callable[..., Path]:
    return videos.write_sound
