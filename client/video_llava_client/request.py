"""What the caller asks, checked, and turned into the tensors of one request."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, cast

import numpy as np

from .errors import OptionError, PromptError, RequestTooLarge
from .limits import MediaLimits
from .media import (
    Clip,
    ClipInfo,
    ImageSource,
    Stopwatch,
    VideoSource,
    is_one_image,
    is_one_video,
    load_clips,
    load_images,
)
from .metadata import media_digest
from .prompt import build_prompt, check_prompt
from .settings import check_seconds
from .tensors import INPUTS_BY_NAME, RawTensor, encode
from .triton import write_request
from .window import Window

DEFAULT_MAX_TOKENS = 256

# All that an Answer holds. Log probabilities cost the engine time and have no place in it.
_RETURNED = (
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "return_token_ids",
    "return_num_cached_tokens",
    "return_stage_seconds",
)


class AskOptions(TypedDict, total=False):
    """The keyword arguments of `ask` and `stream`, described at `VideoLlava.ask`."""

    video: VideoSource | Sequence[VideoSource] | None
    images: ImageSource | Sequence[ImageSource]
    prompt: str | None
    max_tokens: int
    temperature: float
    timeout_seconds: float | None
    sampling: Mapping[str, Any] | None
    start_seconds: float | None
    end_seconds: float | None


@dataclass(frozen=True)
class Request:
    """What the caller asks; the fields are the arguments of `VideoLlava.ask`.

    Raises:
        PromptError: Neither or both of `question` and `prompt`, or one that does not fit the media.
        OptionError: An option's value cannot be used.
    """

    question: str | None
    prompt: str | None
    videos: tuple[VideoSource, ...] = field(repr=False)
    images: tuple[ImageSource, ...] = field(repr=False)
    max_tokens: int
    temperature: float
    sampling: Mapping[str, Any]
    timeout_seconds: float
    window: Window

    def __post_init__(self) -> None:
        if (self.question is None) == (self.prompt is None):
            raise PromptError("give exactly one of question and prompt=")
        if self.max_tokens < 1:
            raise OptionError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise OptionError(f"temperature must be 0 (always the likeliest token) or more, got {self.temperature}")
        check_seconds("timeout_seconds", self.timeout_seconds)
        if self.sampling.get("n", 1) != 1:
            raise OptionError(f"sampling n={self.sampling['n']!r}: a request has one answer; ask several times instead")
        if not self.window.is_whole and (not self.videos or any(isinstance(v, Clip) for v in self.videos)):
            raise OptionError("start_seconds and end_seconds need a video that is not decoded yet: give its file")
        # Wrong texts and parameters are refused before a long video is decoded.
        _ = self.text_input, self.sampling_parameters

    @property
    def encoders(self) -> tuple[str, ...]:
        """The server's models that the media go through."""
        needed = {"video_encoder": self.videos, "image_encoder": self.images}
        return tuple(name for name, media in needed.items() if media)

    @property
    def text_input(self) -> str:
        """The whole prompt."""
        num_images, num_videos = len(self.images), len(self.videos)
        if self.question is not None:
            return build_prompt(self.question, num_images=num_images, num_videos=num_videos)
        assert self.prompt is not None
        check_prompt(self.prompt, num_images=num_images, num_videos=num_videos)
        return self.prompt

    @property
    def sampling_parameters(self) -> str:
        """JSON of vLLM's SamplingParams; what `sampling` names wins."""
        parameters = {"max_tokens": self.max_tokens, "temperature": self.temperature, **self.sampling}
        try:
            return json.dumps(parameters, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise OptionError(f"sampling must hold only values that JSON knows, got {parameters} ({exc})") from exc


def make_request(
    question: str | None,
    *,
    default_timeout_seconds: float,
    video: VideoSource | Sequence[VideoSource] | None = None,
    images: ImageSource | Sequence[ImageSource] = (),
    prompt: str | None = None,
    max_tokens: int = DEFAULT_MAX_TOKENS,
    temperature: float = 0.0,
    timeout_seconds: float | None = None,
    sampling: Mapping[str, Any] | None = None,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Request:
    """Return the arguments of `ask` as one value, with their defaults."""
    return Request(
        question=question,
        prompt=prompt,
        videos=as_videos(video),
        images=as_images(images),
        max_tokens=max_tokens,
        temperature=temperature,
        sampling=sampling or {},
        timeout_seconds=default_timeout_seconds if timeout_seconds is None else timeout_seconds,
        window=Window(start_seconds, end_seconds),
    )


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A request ready to be sent, as often as it takes.

    Attributes:
        request_id: Its id, as the server's log has it.
        message: The bytes that are sent.
        digest: Which media are in it, "" for none.
        timeout_seconds: How long the answer may take, all attempts together.
        frames: For each video, which frames are sent.
        num_reused_clips: How many videos had been decoded before.
        decode_seconds: Spent on opening and decoding media.
        preprocess_seconds: Spent on resizing and cropping.
    """

    request_id: str
    message: bytes = field(repr=False)
    digest: str
    timeout_seconds: float
    frames: tuple[ClipInfo, ...]
    num_reused_clips: int
    decode_seconds: float
    preprocess_seconds: float


def prepare(
    request: Request, *, model: str, frame_sizes: Mapping[str, int], max_message_bytes: int, limits: MediaLimits
) -> Outgoing:
    """Decode the media of `request` and write its message: all that takes the processor's time.

    `frame_sizes` says what width and height, in pixels, each of `request.encoders` takes.

    Raises:
        MediaError: A file cannot be used.
        RequestTooLarge: The message would have more bytes than `max_message_bytes`.
    """
    stopwatch = Stopwatch()
    inputs, frames = _encode(request, frame_sizes, limits, stopwatch)
    _check_size(request, inputs, max_message_bytes)
    request_id = str(uuid.uuid4())
    return Outgoing(
        request_id=request_id,
        message=write_request(model, request_id, inputs, timeout_seconds=request.timeout_seconds),
        digest=media_digest(inputs),
        timeout_seconds=request.timeout_seconds,
        frames=frames,
        num_reused_clips=sum(isinstance(video, Clip) for video in request.videos),
        decode_seconds=stopwatch.seconds["decode"],
        preprocess_seconds=stopwatch.seconds["preprocess"],
    )


def _encode(
    request: Request, frame_sizes: Mapping[str, int], limits: MediaLimits, stopwatch: Stopwatch
) -> tuple[tuple[RawTensor, ...], tuple[ClipInfo, ...]]:
    values: dict[str, str | bool | np.ndarray] = {
        "text_input": request.text_input,
        "sampling_parameters": request.sampling_parameters,
        # For `ask` too: only with deltas can the server tell that nobody waits for the answer any more.
        "stream": True,
        "exclude_input_in_output": True,
        **dict.fromkeys(_RETURNED, True),
    }
    clips: tuple[Clip, ...] = ()
    if request.videos:
        size = frame_sizes["video_encoder"]
        clips = load_clips(request.videos, size=size, window=request.window, limits=limits, stopwatch=stopwatch)
        values["video_frames"] = np.concatenate([clip.frames for clip in clips])
    if request.images:
        size = frame_sizes["image_encoder"]
        values["image_frames"] = load_images(request.images, size=size, limits=limits, stopwatch=stopwatch)
    inputs = tuple(encode(INPUTS_BY_NAME[name], value) for name, value in values.items())
    return inputs, tuple(clip.info for clip in clips)


def _check_size(request: Request, inputs: Sequence[RawTensor], max_message_bytes: int) -> None:
    # Names, types and shapes take far less than this.
    num_bytes = sum(len(tensor.data) for tensor in inputs) + 4096
    if num_bytes > max_message_bytes:
        raise RequestTooLarge(
            f"the request has {num_bytes} bytes ({len(request.videos)} videos, {len(request.images)} images, "
            f"{len(request.text_input)} characters), max_message_bytes is {max_message_bytes}: send fewer media"
        )


def as_videos(video: VideoSource | Sequence[VideoSource] | None) -> tuple[VideoSource, ...]:
    """Return one, several or no videos as a tuple."""
    if video is None:
        return ()
    return (video,) if is_one_video(video) else tuple(cast("Sequence[VideoSource]", video))


def as_images(images: ImageSource | Sequence[ImageSource]) -> tuple[ImageSource, ...]:
    """Return one, several or no images as a tuple; an array is one image."""
    return (images,) if is_one_image(images) else tuple(cast("Sequence[ImageSource]", images))
