"""`manifest.json` of a model folder: what an export has written there, and what it is.

A model folder holds data only and is never written again:

    manifest.json
    encoders/          video_encoder.onnx, image_encoder.onnx and their weights
    language_model/    config.json, *.safetensors, tokenizer.json: what vLLM loads
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

FORMAT = 2
NAME = "manifest.json"
LANGUAGE_MODEL = "language_model"
ENCODERS = "encoders"
# What says where a model came from, not what it computes.
_ORIGIN = ("id", "created_by", "source", "revision", "profile", "recipes")


class ModelFolderError(Exception):
    """A folder holds no exported model, a damaged one or one of another format; the text says what to do."""


def encoder_path(medium: str) -> Path:
    """Where the graph of `medium` ("video" or "image") lies in a model folder."""
    return Path(ENCODERS, f"{medium}_encoder.onnx")


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """Size and SHA-256 (hex) of one file."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Facts of an exported checkpoint. Counts of tokens are positions of the language model; sizes are pixels."""

    id: str
    """names the folder; never given twice"""
    created_by: str
    source: str
    revision: str | None
    image_size: int
    num_frames: int
    tokens_per_frame: int
    tokens_per_image: int
    hidden_size: int
    vocab_size: int
    max_position_embeddings: int
    image_token: str
    image_token_id: int
    video_token: str
    video_token_id: int
    dtypes: Mapping[str, str]
    """of video_encoder, image_encoder, vicuna, and of the features that the encoders give"""
    quantization: str | None
    profile: Mapping[str, Any] | None
    engine_arguments: Mapping[str, Any]
    """vLLM's AsyncEngineArgs that the export was told or computed; without `model`"""
    files: Mapping[str, FileFacts]
    """by path below the folder"""
    recipes: Mapping[str, str] = field(default_factory=dict)
    """by part ("encoders", "language_model"): SHA-256 (hex) of what its weights were made of"""
    conventions: Mapping[str, Any] = field(default_factory=dict)
    """what clients do otherwise than by default, published with the limits (`model_repository/README.md`)"""

    @property
    def tokens_per_video(self) -> int:
        """Positions that one video takes."""
        return self.num_frames * self.tokens_per_frame

    @property
    def features_dtype(self) -> str:
        """float16 or float32: what the encoders give."""
        return self.dtypes.get("features", "float32")

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files.values())

    @property
    def content_digest(self) -> str:
        """Twelve hex digits that are the same for the same files, facts and engine arguments."""
        facts = {name: value for name, value in self._facts().items() if name not in _ORIGIN}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def _facts(self) -> dict[str, Any]:
        """As they are written: without conventions, which earlier releases do not know, where there are none."""
        return {name: value for name, value in asdict(self).items() if name != "conventions" or value}

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the manifest of a model folder. Raises ModelFolderError."""
        path = folder / NAME
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ModelFolderError(
                f"{folder} holds no exported model ({exc.strerror}: {NAME}); name the folder that "
                "`video-llava-export CHECKPOINT --into DIR` has printed"
            ) from exc
        except ValueError as exc:
            raise ModelFolderError(f"{path} is not JSON ({exc}); export again") from exc
        if (found := facts.pop("format", None)) != FORMAT:
            raise ModelFolderError(_other_format(path, found))
        try:
            files = {name: FileFacts(**file) for name, file in facts.pop("files").items()}
            return cls(**facts, files=files)
        except (TypeError, KeyError, AttributeError) as exc:
            raise ModelFolderError(f"{path} is damaged ({exc}); export again") from exc

    def write(self, folder: Path) -> None:
        """Write the manifest into a model folder."""
        text = json.dumps({"format": FORMAT, **self._facts()}, indent=2)
        (folder / NAME).write_text(f"{text}\n", encoding="utf-8")

    def check_sizes(self, folder: Path) -> None:
        """Raise ModelFolderError unless every file is there in full length."""
        for name, facts in self.files.items():
            path = folder / name
            size = path.stat().st_size if path.is_file() else None
            if size != facts.size_bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise ModelFolderError(
                    f"{path} {found}, the export wrote {facts.size_bytes}; copy it again or export again"
                )


def _other_format(path: Path, found: object) -> str:
    if found == 1:
        return (
            f"{path} has format 1, in which code lay beside the weights; this release reads format {FORMAT}. "
            f"Convert it: video-llava-export convert {path.parent} --into DIR"
        )
    return (
        f"{path} has format {found!r}, this release reads {FORMAT}: export the checkpoint with this release, "
        "or serve the folder with the release that wrote it (created_by in that file)"
    )
