"""What the exported checkpoint takes, as clients are told it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from .lora import read_loras
from .manifest import NAME, Manifest


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes are pixels, counts of tokens are positions of the language model."""

    image_size: int
    num_frames: int
    tokens_per_frame: int
    tokens_per_image: int
    image_token: str
    image_token_id: int
    video_token: str
    video_token_id: int
    max_model_len: int
    """of prompt and answer together"""
    conventions: Mapping[str, Any] = field(default_factory=dict)
    """`sampling`, `video_resize`, `image_resize`, `image_padding`, `system`: those that are not a client's default"""
    lora_names: tuple[str, ...] = ()
    """adapters that a request can choose"""

    @classmethod
    def of(cls, manifest: Manifest, *, max_model_len: int | None, lora_names: Iterable[str] = ()) -> Self:
        """Take the checkpoint's facts, and what the engine was told unless that is None."""
        names = cls.__dataclass_fields__.keys() - {"max_model_len", "lora_names"}
        facts = {name: getattr(manifest, name) for name in names}
        max_model_len = max_model_len or manifest.max_position_embeddings
        return cls(**facts, max_model_len=max_model_len, lora_names=tuple(lora_names))

    def to_json(self) -> str:
        """As the output `limits` of `intake` carries it."""
        facts = asdict(self)
        return json.dumps(facts | facts.pop("conventions"))


def model_folder(repository: Path) -> Path:
    """Return the model folder that an assembled Triton repository refers to."""
    return (repository / NAME).resolve().parent


def read_limits(repository: Path) -> Limits:
    """Read the limits of an assembled Triton repository. Raises ModelFolderError."""
    manifest = Manifest.read(model_folder(repository))
    version = repository / "vicuna" / "1"
    engine = json.loads((version / "model.json").read_text(encoding="utf-8"))
    return Limits.of(manifest, max_model_len=engine.get("max_model_len"), lora_names=read_loras(version))
