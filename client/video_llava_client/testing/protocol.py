"""Triton's messages, read and written by a server."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..messages import messages
from ..server import ModelLimits
from ..tensors import OUTPUTS_BY_NAME, TensorSpec, encode

_DTYPES = {"BOOL": np.bool_, "UINT8": np.uint8}


@dataclass(frozen=True, kw_only=True)
class FakeRequest:
    """One request as the fake server received it.

    Attributes:
        id: The request's id.
        model: The model it asks.
        prompt: The whole prompt.
        sampling: vLLM's SamplingParams.
        stream: Whether the answer is wanted in deltas.
        video_frames: uint8 [8 x videos, height, width, 3], or None.
        image_frames: uint8 [images, height, width, 3], or None.
        tensors: All input tensors by name: texts, bools and arrays.
        parameters: Triton's parameters of the request.
        metadata: gRPC's metadata, the token included.
        seconds_left: Until the client's deadline.
        peer: The client's end of the connection, as gRPC names it.
        cancelled: Set when the client has gone before the end of the answer.
    """

    id: str
    model: str
    prompt: str
    sampling: Mapping[str, Any]
    stream: bool
    video_frames: NDArray[Any] | None = field(repr=False)
    image_frames: NDArray[Any] | None = field(repr=False)
    tensors: Mapping[str, Any] = field(repr=False)
    parameters: Mapping[str, Any] = field(repr=False)
    metadata: Mapping[str, str] = field(repr=False)
    seconds_left: float
    peer: str
    cancelled: threading.Event = field(repr=False)
    frames_per_video: int

    @property
    def num_words(self) -> int:
        """Words of the prompt, which the fake server counts as its tokens."""
        return len(self.prompt.split())

    @property
    def num_media(self) -> tuple[int, int]:
        """How many videos and images there are."""
        videos, images = self.video_frames, self.image_frames
        num_videos = 0 if videos is None else len(videos) // self.frames_per_video
        return num_videos, 0 if images is None else len(images)


def read_request(message: Any, context: Any, cancelled: threading.Event, *, frames_per_video: int) -> FakeRequest:
    """Return the request in `message`, a ModelInferRequest."""
    tensors = {
        tensor.name: _read_tensor(tensor, data)
        for tensor, data in zip(message.inputs, message.raw_input_contents, strict=True)
    }
    return FakeRequest(
        id=message.id,
        model=message.model_name,
        prompt=tensors.get("text_input", ""),
        sampling=json.loads(tensors.get("sampling_parameters", "{}")),
        stream=tensors.get("stream", False),
        video_frames=tensors.get("video_frames"),
        image_frames=tensors.get("image_frames"),
        tensors=tensors,
        parameters={name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in message.parameters.items()},
        metadata=dict(context.invocation_metadata()),
        seconds_left=context.time_remaining() or 0.0,
        peer=context.peer(),
        cancelled=cancelled,
        frames_per_video=frames_per_video,
    )


def _read_tensor(tensor: Any, data: bytes) -> Any:
    if tensor.datatype == "BYTES":
        return data[4:].decode()  # the only element, after its length
    array = np.frombuffer(data, _DTYPES[tensor.datatype]).reshape(tensor.shape)
    return bool(array[0]) if tensor.datatype == "BOOL" else array


def num_positions(request: FakeRequest, limits: ModelLimits) -> int:
    """Return how many tokens the prompt takes, a word counted as a token."""
    num_videos, num_images = request.num_media
    num_media_tokens = num_videos * limits.tokens_per_video + num_images * limits.tokens_per_image
    return request.num_words - num_videos - num_images + num_media_tokens


def refusal(request: FakeRequest, limits: ModelLimits) -> str:
    """Return the error text of the real server for such a request, "" if it would accept it."""
    frame_size = limits.image_size
    if not request.prompt.strip():
        return "INVALID_ARGUMENT: text_input is empty: send a prompt such as 'USER: <video>\\nWhat happens? ASSISTANT:'"
    for name, frames in (("video_frames", request.video_frames), ("image_frames", request.image_frames)):
        if frames is not None and frames.shape[1:] != (frame_size, frame_size, 3):
            expected = f"[frames, {frame_size}, {frame_size}, 3]"
            return f"INVALID_ARGUMENT: {name} is {list(frames.shape)}, expected {expected}"
    lora_name, known = request.sampling.get("lora_name"), limits.lora_names
    if lora_name is not None and lora_name not in known:
        has = f"has {', '.join(known)}" if known else "has none (--lora NAME=DIR)"
        return (
            f"INVALID_ARGUMENT: sampling_parameters: lora_name is {lora_name!r}, there is no such adapter: "
            f"the server {has}"
        )
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
    """Return the message of a stream with an error."""
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
        spec = OUTPUTS_BY_NAME.get(name, TensorSpec(name, "BYTES", (1,)))
        tensor = encode(spec, value if isinstance(value, str) else np.array([value], np.uint32))
        response.outputs.add(name=name, datatype=spec.dtype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.data)
