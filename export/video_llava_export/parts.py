"""Which folder gives which part of a checkpoint: its own, its adapter's, or that of the base it was trained from.

A Trainer's folder has config.json and weights, and often neither tokenizer nor preprocessor.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .config import read_json

_FILES = {
    "config": ("config.json",),
    "generation": ("generation_config.json",),
    "tokenizer": ("tokenizer.json", "tokenizer.model"),
    "preprocessor": ("preprocessor_config.json", "processor_config.json"),
}


@dataclass(frozen=True)
class Parts:
    """The folder of each part. `weights` is the checkpoint's own; a part that no folder has is looked for there."""

    weights: Path
    config: Path
    generation: Path
    tokenizer: Path
    preprocessor: Path

    def notes(self) -> Iterator[str]:
        """Which parts come from elsewhere."""
        for part in _FILES:
            if (folder := getattr(self, part)) != self.weights:
                yield f"{part} of {folder}"


def find_parts(folder: Path, *, adapter: Path | None, base: Path | None) -> Parts:
    """An adapter's tokenizer and preprocessor are what it was trained with; what still lacks comes from the base."""
    trained = [found for found in (adapter, folder, base) if found is not None]
    folders = {part: [found for found in trained if found != adapter] for part in ("config", "generation")}
    return Parts(folder, **{part: _first(part, folders.get(part, trained), folder) for part in _FILES})


def _first(part: str, folders: Iterable[Path], otherwise: Path) -> Path:
    return next((folder for folder in folders if any(_holds(folder, name) for name in _FILES[part])), otherwise)


def _holds(folder: Path, name: str) -> bool:
    """Before transformers 5 a processor's file had no image processor in it."""
    exists = (folder / name).is_file()
    return exists and (name != "processor_config.json" or "image_processor" in read_json(folder / name))
