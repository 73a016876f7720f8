"""What the caller asks, checked, and turned into the tensors of one request."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from .errors import OptionError, PromptError
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
from .prompt import build_prompt, check_prompt
from .tensors import INPUTS_BY_NAME, RawTensor, encode

# All that an Answer holds. Log probabilities cost the engine time and have no place in it.
_RETURNED = (
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
    "return_token_ids",
    "return_num_cached_tokens",
    "return_stage_seconds",
)


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
    stream: bool

    def __post_init__(self) -> None:
        if (self.question is None) == (self.prompt is None):
            raise PromptError("give exactly one of question and prompt=")
        if self.max_tokens < 1:
            raise OptionError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise OptionError(f"temperature must be 0 (always the likeliest token) or more, got {self.temperature}")
        check_timeout(self.timeout_seconds)
        if self.sampling.get("n", 1) != 1:
            raise OptionError(f"sampling n={self.sampling['n']!r}: a request has one answer; ask several times instead")
        # Wrong texts and parameters are refused before a long video is decoded.
        _ = self.text_input, self.sampling_parameters

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


@dataclass(frozen=True)
class EncodedRequest:
    """A request as tensors, and what the client knows of it beyond those.

    Attributes:
        inputs: The tensors.
        frames: For each video, which frames are in them.
        stopwatch: The seconds spent on the media.
    """

    inputs: tuple[RawTensor, ...]
    frames: tuple[ClipInfo, ...]
    stopwatch: Stopwatch


def encode_request(request: Request, *, frame_size: Callable[[str], int]) -> EncodedRequest:
    """Decode the media of `request` and return all of it as tensors.

    `frame_size(encoder)` says what width and height, in pixels, the server's model `encoder` takes; it is asked
    only for the kinds of media there are.

    Raises:
        MediaError: A file cannot be used.
    """
    stopwatch = Stopwatch()
    values: dict[str, str | bool | np.ndarray] = {
        "text_input": request.text_input,
        "sampling_parameters": request.sampling_parameters,
        "stream": request.stream,
        "exclude_input_in_output": True,
        **dict.fromkeys(_RETURNED, True),
    }
    clips: tuple[Clip, ...] = ()
    if request.videos:
        clips = load_clips(request.videos, size=frame_size("video_encoder"), stopwatch=stopwatch)
        values["video_frames"] = np.concatenate([clip.frames for clip in clips])
    if request.images:
        values["image_frames"] = load_images(request.images, size=frame_size("image_encoder"), stopwatch=stopwatch)
    inputs = tuple(encode(INPUTS_BY_NAME[name], value) for name, value in values.items())
    return EncodedRequest(inputs, tuple(clip.info for clip in clips), stopwatch)


def as_videos(video: VideoSource | Sequence[VideoSource] | None) -> tuple[VideoSource, ...]:
    """Return one, several or no videos as a tuple."""
    if video is None:
        return ()
    return (video,) if is_one_video(video) else tuple(cast("Sequence[VideoSource]", video))


def as_images(images: ImageSource | Sequence[ImageSource]) -> tuple[ImageSource, ...]:
    """Return one, several or no images as a tuple; an array is one image."""
    return (images,) if is_one_image(images) else tuple(cast("Sequence[ImageSource]", images))


def check_timeout(timeout_seconds: float) -> None:
    """Raise OptionError unless `timeout_seconds` is a time to wait."""
    if not 0 < timeout_seconds < math.inf:
        raise OptionError(f"timeout_seconds must be more than 0 and finite, got {timeout_seconds}")
