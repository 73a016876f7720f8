"""A folder or the name of a hub repository becomes an opened checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from .config import ModelConfig, read_config
from .errors import CheckpointError
from .preprocessing import Preprocessing, read_preprocessing
from .tensors import Tensors

# Never *.bin or *.pt: reading a pickle runs code from it.
DOWNLOADED = ("*.safetensors", "*.json", "tokenizer.model")


@dataclass(frozen=True)
class Checkpoint:
    """A Video-LLaVA checkpoint on this machine, its config and preprocessor read and checked.

    `source` is what the user named it, `revision` the hub's commit or None for a local folder.
    """

    folder: Path
    source: str
    revision: str | None
    config: ModelConfig
    preprocessing: Preprocessing
    tensors: Tensors


def open_checkpoint(source: str, *, revision: str | None = None) -> Checkpoint:
    """Open the checkpoint in the folder `source`, or download the hub's `source` at `revision`.

    Raises `CheckpointError`.
    """
    folder = _locate(source, revision)
    config = read_config(folder)
    return Checkpoint(
        folder=folder,
        source=source,
        revision=None if Path(source).is_dir() else folder.name,
        config=config,
        preprocessing=read_preprocessing(folder, image_size=config.image_size),
        tensors=Tensors(folder),
    )


def _locate(source: str, revision: str | None) -> Path:
    if Path(source).is_dir():
        if revision is not None:
            raise CheckpointError(f"--revision {revision} is for the hub, but {source} is a local folder; leave it out")
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise CheckpointError(f"{source} is no folder, and no hub repository like LanguageBind/Video-LLaVA-7B-hf")
    return _download(source, revision)


def _download(source: str, revision: str | None) -> Path:
    """The hub's snapshot folder, which is named after the commit."""
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(DOWNLOADED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as exc:
        reason = str(exc).strip().splitlines()[0]
        at = f" at revision {revision}" if revision else ""
        raise CheckpointError(
            f"the hub did not give {source}{at} ({reason}); check the name and the network, or give a local folder"
        ) from exc
