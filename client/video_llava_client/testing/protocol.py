"""Triton's messages, from the server's side."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from ..server import ModelLimits

messages: Any = service_pb2

_DTYPES = {"BOOL": np.bool_, "UINT8": np.uint8}


@dataclass(frozen=True, kw_only=True)
class FakeRequest:
    """One request as the fake server got it.

    Attributes:
        id: The request's id.
        model: The model it asks.
        prompt: The whole prompt.
        sampling: vLLM's SamplingParams.
        stream: Whether the answer is wanted in deltas.
        video_frames: uint8 [8 x videos, height, width, 3], None for none.
        image_frames: uint8 [images, height, width, 3], None for none.
        metadata: gRPC's metadata, the token included.
        seconds_left: Until the client's deadline.
        cancelled: Set when the client has gone before the end of the answer.
    """

    id: str
    model: str
    prompt: str
    sampling: Mapping[str, Any]
    stream: bool
    video_frames: np.ndarray | None = field(repr=False)
    image_frames: np.ndarray | None = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    seconds_left: float
    cancelled: threading.Event = field(repr=False)

    @property
    def num_words(self) -> int:
        """Words of the prompt, which the fake server counts as its tokens."""
        return len(self.prompt.split())

    @property
    def num_media(self) -> tuple[int, int]:
        """How many videos (of eight frames each) and images there are."""
        videos, images = self.video_frames, self.image_frames
        return 0 if videos is None else len(videos) // 8, 0 if images is None else len(images)


def read_request(message: Any, context: Any, cancelled: threading.Event) -> FakeRequest:
    """Return what `message`, a ModelInferRequest, asks."""
    tensors = {
        tensor.name: _read_tensor(tensor, data)
        for tensor, data in zip(message.inputs, message.raw_input_contents, strict=True)
    }
    return FakeRequest(
        id=message.id,
        model=message.model_name,
        prompt=str(tensors.get("text_input", "")),
        sampling=json.loads(tensors.get("sampling_parameters", "{}")),
        stream=bool(tensors.get("stream", False)),
        video_frames=tensors.get("video_frames"),
        image_frames=tensors.get("image_frames"),
        metadata=dict(context.invocation_metadata()),
        seconds_left=context.time_remaining() or 0.0,
        cancelled=cancelled,
    )


def _read_tensor(tensor: Any, data: bytes) -> Any:
    if tensor.datatype == "BYTES":
        return deserialize_bytes_tensor(data)[0].decode()
    return np.frombuffer(data, _DTYPES[tensor.datatype]).reshape(tensor.shape)


def num_positions(request: FakeRequest, limits: ModelLimits) -> int:
    """Return how much of the model's context the prompt takes, a word counted as a token."""
    num_videos, num_images = request.num_media
    num_media_tokens = num_videos * limits.tokens_per_video + num_images * limits.tokens_per_image
    return request.num_words - num_videos - num_images + num_media_tokens


def why_refused(request: FakeRequest, limits: ModelLimits) -> str:
    """Return the text with which the real server refuses such a request, "" if it would not."""
    frame_size = limits.image_size
    if not request.prompt.strip():
        return "INVALID_ARGUMENT: text_input is empty: send a prompt such as 'USER: <video>\\nWhat happens? ASSISTANT:'"
    for name, frames in (("video_frames", request.video_frames), ("image_frames", request.image_frames)):
        if frames is not None and frames.shape[1:] != (frame_size, frame_size, 3):
            expected = f"[frames, {frame_size}, {frame_size}, 3]"
            return f"INVALID_ARGUMENT: {name} is {list(frames.shape)}, expected {expected}"
    for kind, sent in zip(("video", "image"), request.num_media, strict=True):
        in_text = request.prompt.count(f"<{kind}>")
        if in_text != sent:
            return (
                f"INVALID_ARGUMENT: text_input has {in_text} <{kind}> placeholder(s) and the request has {sent} "
                f"{kind}(s): one placeholder stands for each"
            )
    taken = num_positions(request, limits)
    if taken >= limits.max_model_len:
        num_text = request.num_words - sum(request.num_media)
        return (
            f"INVALID_ARGUMENT: the prompt takes {taken} positions ({num_text} of text, {taken - num_text} of media), "
            f"the context holds {limits.max_model_len} with the answer: shorten the text or send fewer media"
        )
    return ""


def error_message(text: str) -> Any:
    """Return the message of a stream that says what went wrong."""
    return messages.ModelStreamInferResponse(error_message=text)


def answer_message(outputs: Mapping[str, str | int], *, final: bool) -> Any:
    """Return one message of a stream, with outputs of one text or number each."""
    message = messages.ModelStreamInferResponse()
    fill(message.infer_response, outputs)
    message.infer_response.parameters["triton_final_response"].bool_param = final
    return message


def fill(response: Any, outputs: Mapping[str, str | int]) -> None:
    """Write `outputs` into a ModelInferResponse."""
    for name, value in outputs.items():
        is_text = isinstance(value, str)
        response.outputs.add(name=name, datatype="BYTES" if is_text else "UINT32", shape=[1])
        array = np.array([value.encode()], np.object_) if is_text else np.array([value], "<u4")
        response.raw_output_contents.append(serialize_byte_tensor(array).item() if is_text else array.tobytes())
