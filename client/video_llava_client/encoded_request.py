"""A request as the bytes that are sent."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import RequestTooLarge
from .loading import Loading
from .metadata import media_digest
from .request import Request
from .tensors import INPUTS_BY_NAME, RawTensor, encode
from .triton import write_request

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .clip import Clip, ClipInfo

# All that an Answer holds, but log probabilities, which cost the engine time.
_RETURNED = (
    "finish_reason",
    "num_input_tokens",
    "num_output_tokens",
    "token_ids",
    "num_cached_tokens",
    "stage_seconds",
)


@dataclass(frozen=True, kw_only=True)
class EncodedRequest:
    """A request that can be sent any number of times.

    Attributes:
        request_id: Its id, as in the server's log.
        message: The bytes that are sent.
        digest: Of the media in it, "" if there are none.
        frames: For each video, which frames are sent.
        num_reused_clips: How many videos had been decoded before.
        decode_seconds: Spent on opening and decoding media.
        preprocess_seconds: Spent on resizing and cropping.
        response_format: What the answer is parsed as.
    """

    request_id: str
    message: bytes = field(repr=False)
    digest: str
    frames: tuple[ClipInfo, ...]
    num_reused_clips: int
    decode_seconds: float
    preprocess_seconds: float
    response_format: type[Any] | None


def encode_request(
    request: Request,
    *,
    model: str,
    frame_sizes: Mapping[str, int],
    max_message_bytes: int,
    loading: Loading,
) -> EncodedRequest:
    """Decode the media of `request` and write its message: all the CPU work of a request.

    `frame_sizes` has width and height, in pixels, for each of `request.encoders`.
    """
    seconds, request_id = loading.stopwatch.seconds, request.request_id or str(uuid.uuid4())
    values: dict[str, str | bool | NDArray[Any]] = {
        "text_input": request.text_input(loading.conventions.system),
        "sampling_parameters": request.sampling_parameters,
        # For `ask` too: only a stream tells the server that the client has gone.
        "stream": True,
        "exclude_input_in_output": True,
        **{f"return_{name}": True for name in _RETURNED},
    }
    if request.logprobs is not None:
        values["return_logprobs"] = True
    if request.server_load:
        values["return_server_load"] = True
    clips: list[Clip] = []
    if request.videos:
        clips = _load_clips(request, frame_sizes["video_encoder"], loading)
        values["video_frames"] = _frames(clips)
    if request.images:
        from .images import load_images

        values["image_frames"] = load_images(request.images, size=frame_sizes["image_encoder"], loading=loading)
    inputs = [encode(INPUTS_BY_NAME[name], value) for name, value in values.items()]
    _check_size(request, inputs, max_message_bytes)
    assert loading.deadline
    return EncodedRequest(
        request_id=request_id,
        message=write_request(model, request_id, inputs, timeout_seconds=loading.deadline.remaining_seconds),
        digest=media_digest(inputs),
        frames=tuple(clip.info for clip in clips),
        num_reused_clips=request.num_clips,
        decode_seconds=seconds["decode"],
        preprocess_seconds=seconds["preprocess"],
        response_format=request.response_format,
    )


def _load_clips(request: Request, size: int, loading: Loading) -> list[Clip]:
    from .clip import Clip

    return [Clip.load_window(video, size=size, window=request.window, loading=loading) for video in request.videos]


def _frames(clips: list[Clip]) -> NDArray[Any]:
    import numpy as np

    return np.concatenate([clip.frames for clip in clips])


def _check_size(request: Request, inputs: Iterable[RawTensor], max_message_bytes: int) -> None:
    # Names, types and shapes take much less than 4096 bytes.
    num_bytes = sum(len(tensor.data) for tensor in inputs) + 4096
    if num_bytes > max_message_bytes:
        raise RequestTooLarge(
            f"the request has {num_bytes} bytes ({len(request.videos)} videos, {len(request.images)} images, "
            f"{len(request.text_input())} characters), max_message_bytes is {max_message_bytes}: send fewer media"
        )
