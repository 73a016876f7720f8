"""A model folder without weights, for tests of what reads its manifest and tokenizer."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from video_llava_server.manifest import Manifest

FACTS: dict[str, Any] = {
    "created_by": "a test",
    "source": "nowhere",
    "revision": None,
    "image_size": 28,
    "num_frames": 2,
    "tokens_per_frame": 5,
    "tokens_per_image": 4,
    "hidden_size": 4,
    "max_position_embeddings": 25,
    "image_token": "<image>",
    "video_token": "<video>",
    "dtypes": {},
    "quantization": None,
    "profile": None,
    "engine_arguments": {},
    "files": {},
}


def write_model_folder(folder: Path, tokenizer: Tokenizer, **facts: Any) -> Manifest:
    """Write manifest and tokenizer; `facts` win over FACTS."""
    (folder / "language_model").mkdir(parents=True)
    tokenizer.save(str(folder / "language_model" / "tokenizer.json"))
    ids = {f"{medium}_token_id": tokenizer.token_to_id(f"<{medium}>") for medium in ("image", "video")}
    values: dict[str, Any] = FACTS | ids | facts
    manifest = Manifest(id=folder.name, vocab_size=tokenizer.get_vocab_size(), **values)
    manifest.write(folder)
    return manifest
