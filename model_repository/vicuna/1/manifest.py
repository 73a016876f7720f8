"""What the export wrote down about the checkpoint: the numbers that prompts are built by."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Facts of the checkpoint. Counts are tokens, that is positions of the language model."""

    num_frames: int
    tokens_per_frame: int
    tokens_per_image: int
    hidden_size: int
    image_token: str
    image_token_id: int
    video_token: str
    video_token_id: int

    @property
    def tokens_per_video(self) -> int:
        """Positions that one video takes."""
        return self.num_frames * self.tokens_per_frame


def read_manifest(repository: Path) -> Manifest:
    """Read `manifest.json` at the top of a model repository.

    Raises FileNotFoundError, with what to do, where no checkpoint was exported into it.
    """
    path = repository / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}: run video-llava-export CHECKPOINT --into {repository}")
    facts = json.loads(path.read_text(encoding="utf-8"))
    return Manifest(**{name: facts[name] for name in Manifest.__dataclass_fields__})
