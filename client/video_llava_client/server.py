"""What a server says of itself: its models, and what the one that is asked can take."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import AccessDenied, Internal, InvalidRequest
from .triton import limits_request, messages, read_text_output

T = TypeVar("T")
Steps = Generator[tuple[str, Any], Any, T]

_ENSEMBLE_STEPS = ("intake", "video_encoder", "image_encoder", "vicuna", "relay")


@dataclass(frozen=True)
class ModelStatus:
    """One model in the server's repository; `state` is Triton's word, such as READY, and `reason` why not.

    Where the repository is closed to clients, `version` and `reason` are empty.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ModelLimits:
    """What the model takes, as its server says.

    Attributes:
        image_size: Width and height of a frame, in pixels.
        num_frames: Frames of a video.
        tokens_per_frame: Positions that a video's frame takes.
        tokens_per_image: Positions that an image takes.
        max_model_len: Positions that prompt and answer have together.
    """

    image_size: int
    num_frames: int
    tokens_per_frame: int
    tokens_per_image: int
    max_model_len: int

    @property
    def tokens_per_video(self) -> int:
        """Positions that a video takes."""
        return self.num_frames * self.tokens_per_frame


@dataclass(frozen=True)
class ServerInfo:
    """What `VideoLlava.info` gives.

    Attributes:
        url: The client's addresses.
        version: Triton's.
        models: All models of the repository; where it is closed to clients, the model asked and its steps.
        limits: What the model takes; None where its server, of an earlier release, does not say.
    """

    url: str
    version: str
    models: tuple[ModelStatus, ...]
    limits: ModelLimits | None

    @property
    def is_ready(self) -> bool:
        """Whether all models are ready, as far as Triton knows; `VideoLlava.probe` finds out."""
        return bool(self.models) and all(model.state == "READY" for model in self.models)


def ask_info(url: str, model: str) -> Steps[ServerInfo]:
    """Yield what is to be asked, (method, message), and be sent the replies; return what they say."""
    server = yield "server_metadata", messages.ServerMetadataRequest()
    models = yield from _ask_models(model)
    limits = None
    try:
        reply = yield "infer", limits_request()
        limits = _read_limits(reply)
    except (InvalidRequest, Internal):
        # An earlier release's `intake` knows no such output.
        pass
    return ServerInfo(url=url, version=server.version, models=models, limits=limits)


def _ask_models(model: str) -> Steps[tuple[ModelStatus, ...]]:
    try:
        index = yield "repository_index", messages.RepositoryIndexRequest()
    except AccessDenied:
        statuses = []
        for name in (model, *_ENSEMBLE_STEPS):
            reply = yield "model_ready", messages.ModelReadyRequest(name=name)
            statuses.append(ModelStatus(name, "", "READY" if reply.ready else "UNAVAILABLE", ""))
        return tuple(statuses)
    return tuple(ModelStatus(m.name, m.version, m.state, m.reason) for m in index.models)


def _read_limits(reply: Any) -> ModelLimits:
    try:
        facts = json.loads(read_text_output(reply, "limits"))
        return ModelLimits(**{name: int(facts[name]) for name in ModelLimits.__dataclass_fields__})
    except (KeyError, ValueError, TypeError) as exc:
        raise Internal(f"the server's limits cannot be read ({type(exc).__name__}: {exc})") from exc
