"""The arguments of `ask`, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import OptionError, PromptError
from .prompt import build_prompt, check_prompt
from .settings import check_seconds
from .window import Window, WindowOptions

# Clips and images need NumPy and Pillow, half the time of a start: a text does without.
if TYPE_CHECKING:
    from .clip import VideoSource
    from .images import ImageSource

DEFAULT_MAX_TOKENS = 256


class AskOptions(WindowOptions, total=False):
    """The keyword arguments of `ask` and `stream`, described at `VideoLlava.ask`."""

    video: VideoSource | Sequence[VideoSource] | None
    images: ImageSource | Sequence[ImageSource]
    prompt: str | None
    max_tokens: int
    temperature: float
    timeout_seconds: float | None
    sampling: Mapping[str, Any] | None


@dataclass(frozen=True)
class Request:
    """One request; the fields are the arguments of `VideoLlava.ask`."""

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
            raise OptionError(f"temperature must be 0 (always the most likely token) or more, got {self.temperature}")
        check_seconds("timeout_seconds", self.timeout_seconds)
        if self.sampling.get("n", 1) != 1:
            raise OptionError(f"sampling n={self.sampling['n']!r}: a request has one answer; ask several times instead")
        if not self.window.is_whole and (not self.videos or self.num_clips):
            raise OptionError(
                "start_seconds and end_seconds need a video that is not decoded yet, as do frame_indices, "
                "frame_seconds and video_stream: give its file"
            )
        # Refuses wrong texts and parameters before a long video is decoded.
        _ = self.text_input, self.sampling_parameters

    @classmethod
    def from_options(cls, question: str | None, options: AskOptions, *, default_timeout_seconds: float) -> Request:
        """Return the request for the arguments of `ask`."""
        timeout_seconds = options.get("timeout_seconds")
        return cls(
            question=question,
            prompt=options.get("prompt"),
            videos=_videos(options.get("video")),
            images=_images(options.get("images", ())),
            max_tokens=options.get("max_tokens", DEFAULT_MAX_TOKENS),
            temperature=options.get("temperature", 0.0),
            sampling=options.get("sampling") or {},
            timeout_seconds=default_timeout_seconds if timeout_seconds is None else timeout_seconds,
            window=Window.from_options({n: v for n, v in options.items() if n in WindowOptions.__annotations__}),
        )

    @property
    def encoders(self) -> tuple[str, ...]:
        """The server's models that encode the media."""
        needed = {"video_encoder": self.videos, "image_encoder": self.images}
        return tuple(name for name, media in needed.items() if media)

    @property
    def num_clips(self) -> int:
        """How many videos are decoded already."""
        if not self.videos:
            return 0
        from .clip import Clip

        return sum(isinstance(video, Clip) for video in self.videos)

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
        """JSON of vLLM's SamplingParams; `sampling` overrides `max_tokens` and `temperature`."""
        parameters = {"max_tokens": self.max_tokens, "temperature": self.temperature, **self.sampling}
        try:
            return json.dumps(parameters, allow_nan=False)
        except (TypeError, ValueError) as exc:
            raise OptionError(f"sampling must hold only JSON values, got {parameters} ({exc})") from exc


def _videos(video: VideoSource | Sequence[VideoSource] | None) -> tuple[VideoSource, ...]:
    if video is None or (isinstance(video, tuple) and not video):
        return ()
    from .clip import as_videos

    return as_videos(video)


def _images(images: ImageSource | Sequence[ImageSource]) -> tuple[ImageSource, ...]:
    if isinstance(images, tuple) and not images:
        return ()
    from .images import as_images

    return as_images(images)
