"""What a server says about itself: its models, and the sizes its model takes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from .conventions import Conventions
from .errors import Internal

ENSEMBLE_STEPS = ("intake", "video_encoder", "image_encoder", "vicuna", "relay")


@dataclass(frozen=True)
class ModelStatus:
    """One model of the server; `state` is Triton's word, such as READY, and `reason` says why not.

    Where Triton's model repository API is closed to clients, `version` and `reason` are empty.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True)
class ModelLimits:
    """The sizes that the model takes, as its server says.

    Attributes:
        image_size: Width and height of a frame, in pixels.
        num_frames: Frames of a video.
        tokens_per_frame: Tokens that a video's frame takes.
        tokens_per_image: Tokens that an image takes.
        max_model_len: Tokens that prompt and answer may have together.
        lora_names: Adapters that a request can choose.
        conventions: How the model wants its media and its prompt.
    """

    image_size: int
    num_frames: int
    tokens_per_frame: int
    tokens_per_image: int
    max_model_len: int
    lora_names: tuple[str, ...] = ()
    conventions: Conventions = field(default_factory=Conventions)

    @property
    def tokens_per_video(self) -> int:
        """Tokens that a video takes."""
        return self.num_frames * self.tokens_per_frame

    @classmethod
    def from_json(cls, text: str) -> ModelLimits:
        """Return the limits as the server publishes them."""
        try:
            facts = json.loads(text)
            sizes = {each.name: int(facts[each.name]) for each in fields(cls) if each.type == "int"}
            loras = tuple(facts.get("lora_names", ()))
            return cls(**sizes, lora_names=loras, conventions=Conventions.from_facts(facts))
        except (KeyError, ValueError, TypeError) as exc:
            raise Internal(f"the server's limits cannot be read ({type(exc).__name__}: {exc})") from exc

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads: the conventions stand beside the sizes."""
        sizes = vars(self).copy()
        return sizes | sizes.pop("conventions").to_json()


@dataclass(frozen=True)
class ServerInfo:
    """What `VideoLlava.info` returns.

    Attributes:
        url: The client's addresses.
        version: Triton's.
        models: All models; where Triton's repository API is closed, the ensemble and its steps.
        limits: The sizes that the model takes; None if the server, of an earlier release, does not say.
    """

    url: str
    version: str
    models: tuple[ModelStatus, ...]
    limits: ModelLimits | None

    @property
    def is_ready(self) -> bool:
        """Whether Triton says that all models are ready; `VideoLlava.probe` tries it."""
        return bool(self.models) and all(model.state == "READY" for model in self.models)
