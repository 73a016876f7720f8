"""Triton's gRPC protocol: the module that reads and writes its untyped messages."""

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from .delta import Delta
from .errors import AccessDenied, InterruptedStream, ServerError, error_class
from .messages import messages
from .tensors import OUTPUTS_BY_NAME, RawTensor, TensorSpec, decode

_SERVICE = "/inference.GRPCInferenceService"


@dataclass(frozen=True)
class Response:
    """One message of a stream: the text of an error, or outputs, or only the mark of the end."""

    outputs: dict[str, list[Any]]
    is_final: bool
    error: str = ""


class Methods:
    """Triton's methods on one channel, blocking or asyncio: each takes `(message, timeout=, metadata=)`.

    Attributes:
        stream_infer: Takes the bytes of one request, gives a call: an iterator of messages that can be cancelled.
        infer, server_metadata, model_metadata, model_config, model_ready, repository_index: Take a message, give a call
            that can be cancelled: `result()` waits for its reply, asyncio awaits the call itself.
    """

    def __init__(self, channel: Any) -> None:
        # Each request has a stream of its own. As `unary_stream`, gRPC needs no thread to send it. (tritonclient's own
        # client has one stream, so it would need a connection for each running request.)
        self.stream_infer: Any = channel.unary_stream(
            f"{_SERVICE}/ModelStreamInfer", response_deserializer=messages.ModelStreamInferResponse.FromString
        )
        self.infer: Any = _unary(channel, "ModelInfer", messages.ModelInferResponse)
        self.server_metadata: Any = _unary(channel, "ServerMetadata", messages.ServerMetadataResponse)
        self.model_metadata: Any = _unary(channel, "ModelMetadata", messages.ModelMetadataResponse)
        self.model_config: Any = _unary(channel, "ModelConfig", messages.ModelConfigResponse)
        self.model_ready: Any = _unary(channel, "ModelReady", messages.ModelReadyResponse)
        self.repository_index: Any = _unary(channel, "RepositoryIndex", messages.RepositoryIndexResponse)


def _unary(channel: Any, method: str, response: Any) -> Any:
    callable_ = channel.unary_unary(
        f"{_SERVICE}/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=response.FromString,
    )
    return getattr(callable_, "future", callable_)


def write_request(model: str, request_id: str, inputs: Iterable[RawTensor], *, timeout_seconds: float) -> bytes:
    """Return the message that asks `model` for an answer; the server stops after `timeout_seconds`."""
    request = messages.ModelInferRequest(model_name=model, id=request_id)
    # Without this, Triton does not send a final response that has no outputs.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    # Microseconds. Generation stops at the deadline even if the server does not notice that the connection broke.
    request.parameters["timeout"].int64_param = math.ceil(timeout_seconds * 1e6)
    for tensor in inputs:
        request.inputs.add(name=tensor.spec.name, datatype=tensor.spec.dtype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.data)
    return request.SerializeToString()


def read_response(message: Any) -> Response:
    """Return the content of a message of the stream."""
    if message.error_message:
        return Response({}, is_final=False, error=message.error_message)
    answer = message.infer_response
    # A server of a later release may send an output that this client does not know.
    outputs = {
        output.name: decode(RawTensor(OUTPUTS_BY_NAME[output.name], tuple(output.shape), data))
        for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        if output.name in OUTPUTS_BY_NAME
    }
    return Response(outputs, is_final=answer.parameters["triton_final_response"].bool_param)


def limits_request() -> Any:
    """Return the message that asks the ensemble's first step for the model's limits."""
    request = messages.ModelInferRequest(model_name="intake")
    request.outputs.add(name="limits")
    return request


def read_text_output(message: Any, name: str) -> str:
    """Return the text of the output `name` of a ModelInferResponse."""
    for output, data in zip(message.outputs, message.raw_output_contents, strict=True):
        if output.name == name:
            return decode(RawTensor(TensorSpec(name, "BYTES", (1,)), tuple(output.shape), data))[0]
    raise ValueError(f"no output {name!r}")


def read_frame_size(metadata: Any) -> int:
    """Return the width and height, in pixels, that an encoder takes: its input `frames` [-1, -1, H, W, 3]."""
    shapes = {tensor.name: tuple(tensor.shape) for tensor in metadata.inputs}
    shape = shapes.get("frames", ())
    if len(shape) != 5 or shape[2] != shape[3] or shape[2] < 1 or shape[4] != 3:
        raise ValueError(f"model {metadata.name!r} should take frames [-1, -1, size, size, 3], but takes {shapes}")
    return shape[2]


def from_rpc_error(
    error: grpc.RpcError, *, url: str, timeout_seconds: float, request_id: str = "", received: Sequence[Delta] = ()
) -> ServerError:
    """Return the error of this package for one of gRPC's."""
    call: Any = error
    code, details = call.code().name, call.details() or ""
    kind = error_class(code, details)
    if kind is AccessDenied:
        message = f"{url} denied access ({details}): {_what_to_check(details, _CHECK_ACCESS)}"
    # A proxy resets the stream where the server behind it has crashed.
    elif (code == "UNAVAILABLE" and received) or (code == "INTERNAL" and "RST_STREAM" in details):
        kind, message = InterruptedStream, f"lost the connection to {url} in the middle of the answer ({details})"
    elif code == "UNAVAILABLE":
        message = f"cannot reach {url} ({details}): {_what_to_check(details, _CHECK_ADDRESS)}{_proxy_hint()}"
    elif code == "DEADLINE_EXCEEDED":
        message = f"no complete answer from {url} within timeout_seconds={timeout_seconds:g}: allow more time"
    elif code == "CANCELLED":
        message = f"the request to {url} was cancelled ({details})"
    else:
        message = f"{url} answered {code}: {details}{_ADVICE_BY_CODE.get(code, '')}"
    return kind(message, request_id=request_id, received=received)


_ADVICE_BY_CODE = {
    "UNIMPLEMENTED": ": is this Triton's gRPC port (by default 8001)?",
    "RESOURCE_EXHAUSTED": ": send fewer media, or raise the limit of the proxy before the server",
}

# The first whose key is in gRPC's text applies.
_ADVICE_BY_TEXT = {
    "restricted": "send the header that it names, headers={'triton-grpc-protocol-…': …}",
    "CERTIFICATE_VERIFY_FAILED": "check that tls names the authority that signed the server's certificate",
    "Hostname Verification": "check that the address is a name in the server's certificate, or set tls server_name",
    "WRONG_VERSION_NUMBER": "the server does not speak TLS: leave tls out",
    "handshake": "check the certificates, and that both sides use TLS or neither does",
    "errors resolving": "check the name in the address, and that this machine can resolve it",
    "DNS resolution failed": "check the name in the address, and that this machine can resolve it",
    "stopped accepting": "the server is shutting down: try later",
    # Envoy's, as deploy/kubernetes/components/rate-limit sets it up.
    "local_rate_limited": "this key is over its limit: try later",
}


_CHECK_ACCESS = "check the token, the headers or the certificate"
_CHECK_ADDRESS = (
    "check the address, that the server runs, and that the port is its gRPC port (by default 8001), not the HTTP one"
)


def _what_to_check(details: str, otherwise: str) -> str:
    return next((advice for text, advice in _ADVICE_BY_TEXT.items() if text in details), otherwise)


def _proxy_hint() -> str:
    """Name the variable of the environment by which gRPC connects through a proxy, if one is set."""
    name = next((name for name in ("grpc_proxy", "https_proxy", "http_proxy") if os.environ.get(name)), "")
    return name and f"; gRPC connects through the proxy in {name}, unless no_proxy has this host"
