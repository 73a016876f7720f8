"""The arguments of `ask`, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import OptionError, PromptError
from .prompt import build_prompt, check_prompt
from .settings import Settings, Timeouts, Token
from .window import Window, WindowOptions

# Clips and images need NumPy and Pillow, half the time of a start: a text does without.
if TYPE_CHECKING:
    from .clip import VideoSource
    from .images import ImageSource

DEFAULT_MAX_TOKENS = 256

_OF_SETTINGS = ("headers", "token", "timeout_seconds")  # options that the client has, too


class AskOptions(WindowOptions, total=False):
    """The keyword arguments of `ask` and `stream`, described at `VideoLlava.ask`."""

    video: VideoSource | Sequence[VideoSource] | None
    images: ImageSource | Sequence[ImageSource]
    prompt: str | None
    max_tokens: int
    temperature: float
    timeout_seconds: float | Timeouts | None
    sampling: Mapping[str, Any] | None
    lora_name: str | None
    priority: int
    server_load: bool
    logprobs: int | None
    response_format: type[Any] | None
    headers: Mapping[str, str]
    token: Token | None
    request_id: str


class Question(AskOptions, total=False):
    """All arguments of `ask`, for `ask_many`."""

    question: str


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
    lora_name: str | None
    priority: int
    server_load: bool
    logprobs: int | None
    window: Window
    response_format: type[Any] | None
    request_id: str
    settings: Settings

    def __post_init__(self) -> None:
        if (self.question is None) == (self.prompt is None):
            raise PromptError("give exactly one of question and prompt=")
        if self.max_tokens < 1:
            raise OptionError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise OptionError(f"temperature must be 0 (always the most likely token) or more, got {self.temperature}")
        if self.priority < 0:
            raise OptionError(f"priority must be 0 (first) or more (later), got {self.priority}")
        if not (self.request_id.isascii() and self.request_id.isprintable()):
            raise OptionError(f"request_id must be printable ASCII, got {self.request_id!r}")
        if self.response_format is not None and not hasattr(self.response_format, "model_json_schema"):
            raise OptionError(f"response_format must be a Pydantic model, got {self.response_format!r}")
        if self.sampling.get("n", 1) != 1:
            raise OptionError(f"sampling n={self.sampling['n']!r}: a request has one answer; ask several times instead")
        if not self.window.is_whole and (not self.videos or self.num_clips):
            raise OptionError(
                "start_seconds and end_seconds need a video that is not decoded yet, as do frame_indices, "
                "frame_seconds and video_stream: give its file"
            )
        # Refuses wrong texts and parameters before a long video is decoded.
        _ = self.text_input(), self.sampling_parameters

    @classmethod
    def from_options(cls, question: str | None, options: AskOptions, settings: Settings) -> Request:
        """Return the request for the arguments of `ask`, some of which override the client's `settings`."""
        if unknown := sorted(options.keys() - AskOptions.__annotations__.keys()):
            known = ", ".join(AskOptions.__annotations__)
            raise TypeError(f"ask got unexpected keyword arguments {', '.join(unknown)}; known are {known}")
        own: Any = {name: value for name, value in options.items() if name in _OF_SETTINGS and value is not None}
        return cls(
            question=question,
            prompt=options.get("prompt"),
            videos=_videos(options.get("video")),
            images=_images(options.get("images", ())),
            max_tokens=options.get("max_tokens", DEFAULT_MAX_TOKENS),
            temperature=options.get("temperature", 0.0),
            sampling=options.get("sampling") or {},
            lora_name=options.get("lora_name"),
            priority=options.get("priority", 0),
            server_load=options.get("server_load", False),
            logprobs=options.get("logprobs"),
            window=Window.from_options({n: v for n, v in options.items() if n in WindowOptions.__annotations__}),
            response_format=options.get("response_format"),
            request_id=options.get("request_id", ""),
            settings=settings.with_options(own),
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

    def text_input(self, system: str = "") -> str:
        """Return the whole prompt; `system` stands before a question, not in a prompt that is whole already."""
        num_images, num_videos = len(self.images), len(self.videos)
        if self.question is not None:
            return build_prompt(self.question, num_images=num_images, num_videos=num_videos, system=system)
        assert self.prompt is not None
        check_prompt(self.prompt, num_images=num_images, num_videos=num_videos)
        return self.prompt

    @property
    def sampling_parameters(self) -> str:
        """JSON of vLLM's SamplingParams; `sampling` overrides `max_tokens` and `temperature`."""
        parameters = {"max_tokens": self.max_tokens, "temperature": self.temperature, **self.sampling}
        if self.lora_name is not None:
            parameters["lora_name"] = self.lora_name
        if self.priority:
            parameters["priority"] = self.priority
        if self.logprobs is not None:
            parameters["logprobs"] = self.logprobs
        if self.response_format is not None:
            if "structured_outputs" in self.sampling:
                raise OptionError("give one of response_format= and sampling structured_outputs, not both")
            parameters["structured_outputs"] = {"json": self.response_format.model_json_schema()}
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
