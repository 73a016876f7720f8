"""How a server's model wants its media and its prompt: what its checkpoint was trained with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Self

from .errors import Internal
from .sampling import NUM_FRAMES

_KNOWN = {
    "sampling": ("arange", "linspace"),
    "video_resize": ("pillow", "bilinear", "bicubic"),
    "image_resize": ("pillow", "bilinear", "bicubic"),
}


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How a video's frames are chosen, how pictures become squares, and what stands before a prompt.

    The defaults are those of Hugging Face's Video-LLaVA, and of servers that do not say.

    Attributes:
        num_frames: Frames of a video that the model sees, 8 for the 7B.
        sampling: Of n frames those with the index `i * n // 8` ("arange") or `i * (n - 1) // 7` ("linspace").
        video_resize: "pillow": Pillow's bicubic filter, bit for bit as transformers. "bilinear" and "bicubic": as
            torch's `interpolate` of floats, without antialiasing, then rounded to eight bits.
        image_resize: The same for images.
        image_padding: RGB with which an image is made square first; None: its edges are cut off.
        system: Stands before the first turn, with a blank between; empty: nothing.

    Raises:
        Internal: A value is not known: the server is newer than this client.
    """

    num_frames: int = NUM_FRAMES
    sampling: str = "arange"
    video_resize: str = "pillow"
    image_resize: str = "pillow"
    image_padding: tuple[int, int, int] | None = None
    system: str = ""

    def __post_init__(self) -> None:
        for name, known in _KNOWN.items():
            if (value := getattr(self, name)) not in known:
                raise Internal(
                    f"the server's model wants {name} {value!r}, this client knows {', '.join(known)}: update it"
                )

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Return the conventions among what a server publishes; what it does not say is as by default."""
        given = {field.name: facts[field.name] for field in fields(cls) if field.name in facts}
        if given.get("image_padding"):
            given["image_padding"] = tuple(given["image_padding"])
        return cls(**given)

    @property
    def image_fit(self) -> dict[str, Any]:
        """How `pixels.fit` makes an image square."""
        return {"resize": self.image_resize, "padding": self.image_padding}

    @property
    def of_frames(self) -> Self:
        """The conventions under which a video's frame is an image."""
        return replace(self, image_resize=self.video_resize, image_padding=None)

    def to_json(self) -> dict[str, Any]:
        """Return the attributes that are not the default."""
        default = asdict(Conventions())
        return {name: value for name, value in asdict(self).items() if value != default[name]}
