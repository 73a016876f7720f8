"""`manifest.json`: what the model repository holds, for the steps that must know before they load it."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .config import ModelConfig
from .files import FileFacts
from .graph import Precision
from .language_model import LanguageModel
from .tokens import IMAGE_TOKEN, VIDEO_TOKEN

MANIFEST_NAME = "manifest.json"
FORMAT = 1


def write_manifest(
    folder: Path,
    config: ModelConfig,
    model: LanguageModel,
    *,
    source: str,
    revision: str | None,
    precision: Precision,
    profile: dict[str, Any] | None,
    files: Mapping[Path, FileFacts],
) -> None:
    """Write `folder`/manifest.json over `files`, all of them below `folder`."""
    manifest = {
        "format": FORMAT,
        "created_by": f"video-llava-export {_own_version()}",
        "source": source,
        "revision": revision,
        **model_facts(config),
        "dtypes": {"video_encoder": precision.word, "image_encoder": precision.word, "vicuna": model.dtype},
        "quantization": (model.quantization or {}).get("quant_method"),
        "profile": profile,
        "files": {path.relative_to(folder).as_posix(): asdict(files[path]) for path in sorted(files)},
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


def _own_version() -> str:
    try:
        return version("video-llava-triton")
    except PackageNotFoundError:
        return "(not installed)"
