"""Triton's gRPC protocol: the only module that touches the generated, untyped message classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

from .answers import Delta
from .errors import InterruptedStream, ServerError, error_class
from .tensors import OUTPUTS_BY_NAME, RawTensor, decode

_messages: Any = service_pb2
_services: Any = service_pb2_grpc

# gRPC refuses messages over 4 MiB unless told otherwise: four videos. The server has its own limit.
_CHANNEL_OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


@dataclass(frozen=True)
class Response:
    """One message of a stream: an error's text, or outputs, or nothing but the mark of the end."""

    outputs: dict[str, list[Any]]
    is_final: bool
    error: str = ""


class Connection:
    """One gRPC channel to `host:port`, shared by all requests; it connects when the first is sent.

    tritonclient's own client has room for one stream, so it would take one connection for each request under way.
    gRPC carries any number of streams over one: only the generated stub is used here.
    """

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url, options=_CHANNEL_OPTIONS)
        # Made once, here: gRPC 1.85 crashes the process where a stub is made on a closed channel.
        self._stub = _services.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Close the channel; every call under way ends as cancelled."""
        self._channel.close()

    def stream_infer(self, request: Any, *, timeout_seconds: float) -> Any:
        """Send one request in a stream of its own; return the call, an iterator of messages that can be cancelled.

        Raises:
            ValueError: The connection is closed.
        """
        return self._stub.ModelStreamInfer(iter([request]), timeout=timeout_seconds)

    def read_frame_size(self, encoder: str, *, timeout_seconds: float) -> int:
        """Return the width and height, in pixels, that the model `encoder` takes: its input `frames` [-1, -1, H, W, 3].

        Raises:
            grpc.RpcError: The server cannot be reached or has no such model.
            ValueError: The model's input is another, or the connection is closed.
        """
        metadata = self._stub.ModelMetadata(_messages.ModelMetadataRequest(name=encoder), timeout=timeout_seconds)
        shapes = {tensor.name: tuple(tensor.shape) for tensor in metadata.inputs}
        shape = shapes.get("frames", ())
        if len(shape) != 5 or shape[2] != shape[3] or shape[2] < 1 or shape[4] != 3:
            raise ValueError(f"model {encoder!r} should take frames [-1, -1, size, size, 3], but takes {shapes}")
        return shape[2]


def write_request(model: str, request_id: str, inputs: Iterable[RawTensor]) -> Any:
    """Return the message that asks `model` for an answer."""
    request = _messages.ModelInferRequest(model_name=model, id=request_id)
    # A decoupled model may send the mark of the end in a message of its own: without this, Triton keeps it back.
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for tensor in inputs:
        request.inputs.add(name=tensor.spec.name, datatype=tensor.spec.dtype, shape=tensor.shape)
        request.raw_input_contents.append(tensor.data)
    return request


def read_response(message: Any) -> Response:
    """Return what a message of the stream says.

    Raises:
        ValueError: Its bytes are not the tensors it names.
    """
    if message.error_message:
        return Response({}, is_final=False, error=message.error_message)
    answer = message.infer_response
    # The server may send an output that this client does not know yet.
    outputs = {
        output.name: decode(RawTensor(OUTPUTS_BY_NAME[output.name], tuple(output.shape), data))
        for output, data in zip(answer.outputs, answer.raw_output_contents, strict=True)
        if output.name in OUTPUTS_BY_NAME
    }
    return Response(outputs, is_final=answer.parameters["triton_final_response"].bool_param)


def from_rpc_error(
    error: grpc.RpcError, *, url: str, timeout_seconds: float, request_id: str = "", received: Sequence[Delta] = ()
) -> ServerError:
    """Return the error of ours that one of gRPC's stands for."""
    call: Any = error
    code, details = call.code().name, call.details()
    kind = error_class(code)
    if code == "UNAVAILABLE" and received:
        kind, message = InterruptedStream, f"lost the connection to {url} in the middle of the answer ({details})"
    elif code == "UNAVAILABLE":
        message = (
            f"cannot reach {url} ({details}): check the address, that the server runs, "
            "and that the port is its gRPC port (8001 unless set otherwise), not the HTTP one"
        )
    elif code == "DEADLINE_EXCEEDED":
        message = f"no complete answer from {url} within timeout_seconds={timeout_seconds:g}: allow more time"
    elif code == "CANCELLED":
        message = f"the request to {url} was cancelled ({details})"
    else:
        message = f"{url} answered {code}: {details}"
    return kind(message, request_id=request_id, received=received)
