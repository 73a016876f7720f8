"""gRPC as no client of Triton's writes it. Each function returns the error that it got, in seconds, or fails."""

import socket
import struct
from collections.abc import Callable
from importlib import import_module
from typing import Any

import grpc
import numpy as np

from support.refusals import TEXT, VIDEO
from support.triton import flag, store_features, stream, strings

_pb: Any = import_module("tritonclient.grpc.service_pb2")
_stubs: Any = import_module("tritonclient.grpc.service_pb2_grpc")
TIMEOUT_SECONDS = 30


def infer(url: str, request: Any) -> str:
    """Send one message on a stream of its own; return the error."""
    with grpc.insecure_channel(url) as channel:
        stub = _stubs.GRPCInferenceServiceStub(channel)
        try:
            replies = list(stub.ModelStreamInfer(iter([request]), timeout=TIMEOUT_SECONDS))
        except grpc.RpcError as exc:
            call: Any = exc
            assert call.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, "it hangs"
            return call.details()
    return next((reply.error_message for reply in replies if reply.error_message), "")


def message(
    model: str = "video_llava", *, shape: tuple[int, ...] = (1,), raw: tuple[bytes, ...] = (b"",), **fields: Any
) -> Any:
    """Return a request with one string tensor of these bytes."""
    request = _pb.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="text_input", datatype="BYTES", shape=shape)
    request.raw_input_contents.extend(raw)
    return request


def element(text: str) -> bytes:
    """A string as a BYTES tensor has it."""
    return struct.pack("<I", len(text.encode())) + text.encode()


def throw_away(url: str) -> str:
    """Open a stream, ask for a long answer, close the connection at once."""
    channel = grpc.insecure_channel(url)
    stub = _stubs.GRPCInferenceServiceStub(channel)
    request = message(raw=(element(TEXT),))
    request.parameters["max_tokens"].int64_param = 900
    stub.ModelStreamInfer(iter([request]), timeout=TIMEOUT_SECONDS)
    channel.close()
    return "closed"


def junk(url: str) -> str:
    """Send what is no HTTP/2 at all."""
    host, port = url.rsplit(":", maxsplit=1)
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(np.random.default_rng().bytes(4096))
        # Triton may close the connection, or reset it.
        try:
            while connection.recv(4096):
                pass
        except ConnectionError:
            pass
    return "closed"


def features_not_finite(url: str) -> str:
    """Call the models behind the ensemble directly, with features that would poison the engine."""
    reference = store_features(url, np.full((136, 128), np.nan, np.float32))
    return stream(url, "vicuna", {"text_input": strings(VIDEO), "video_features": reference}).error


def stop_nobody(url: str) -> str:
    """Ask for the end of a generation that never was; it is no error."""
    stopped = stream(url, "vicuna", {"stop": strings("never was")})
    assert (stopped.error, stopped.num_final) == ("", 1)
    return "nothing to stop"


def stream_with_prompt(url: str) -> str:
    """Contradict oneself."""
    tensors = {"text_input": strings(TEXT), "stream": flag(True), "exclude_input_in_output": flag(False)}
    return stream(url, "vicuna", tensors).error


MISUSE: dict[str, Callable[[str], str]] = {
    "length past the end": lambda url: infer(url, message(raw=(b"\xff\xff\xff\x7fabc",))),
    "length cut off": lambda url: infer(url, message(raw=(b"\x05\x00",))),
    "no bytes": lambda url: infer(url, message(raw=(b"",))),
    "bytes for two": lambda url: infer(url, message(raw=(element("a") + element("b"),))),
    "no contents": lambda url: infer(url, message(raw=())),
    "shape of none": lambda url: infer(url, message(shape=(0,), raw=(b"",))),
    "shape of two": lambda url: infer(url, message(shape=(2,), raw=(element("a") + element("b"),))),
    "negative shape": lambda url: infer(url, message(shape=(-1,), raw=(element("a"),))),
    "huge shape": lambda url: infer(url, message(shape=(2**62, 2**62), raw=(element("a"),))),
    "unknown model": lambda url: infer(url, message("video_lava", raw=(element(TEXT),))),
    "unknown version": lambda url: infer(url, message(raw=(element(TEXT),), model_version="7")),
    "version no number": lambda url: infer(url, message(raw=(element(TEXT),), model_version="latest")),
    "thrown away": throw_away,
    "junk": junk,
    "features not finite": features_not_finite,
    "stop nobody": stop_nobody,
    "stream with prompt": stream_with_prompt,
}
