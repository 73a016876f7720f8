"""`manifest.json`: what the model repository holds, for the steps that must know before they load it."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .config import ModelConfig
from .language_model import LanguageModel
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN

MANIFEST_NAME = "manifest.json"
FORMAT = 1


def write_manifest(
    folder: Path, config: ModelConfig, model: LanguageModel, *, source: str, revision: str | None, files: list[Path]
) -> None:
    """Write `folder`/manifest.json over `files`, all of them below `folder`."""
    manifest = {
        "format": FORMAT,
        "created_by": f"video-llava-export {_own_version()}",
        "source": source,
        "revision": revision,
        **model_facts(config),
        "dtypes": {"video_encoder": "float32", "image_encoder": "float32", "vicuna": model.dtype},
        "files": {path.relative_to(folder).as_posix(): describe_file(path) for path in sorted(files)},
    }
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def model_facts(config: ModelConfig) -> dict[str, Any]:
    """The numbers that the other parts of the repository need from the checkpoint's config."""
    return {
        "image_size": config.image_size,
        "num_frames": config.num_frames,
        "tokens_per_frame": config.tokens_per_frame,
        "tokens_per_image": config.tokens_per_image,
        "hidden_size": config.text.hidden_size,
        "vocab_size": config.text.vocab_size,
        "max_position_embeddings": config.text.max_position_embeddings,
        "image_token": IMAGE_TOKEN,
        "image_token_id": config.image_token_id,
        "video_token": VIDEO_TOKEN,
        "video_token_id": config.video_token_id,
    }


def describe_file(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"size_bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _own_version() -> str:
    try:
        return version("video-llava-triton")
    except PackageNotFoundError:
        return "(not installed)"
