"""How pixels become the vision towers' input, read from the checkpoint's preprocessor."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import original
from .config import read_json
from .errors import CheckpointError

PROCESSOR = "processor_config.json"
# Pillow's number of the filter.
BICUBIC = 3


@dataclass(frozen=True)
class Preprocessing:
    """Rescaling and normalisation of RGB pixels; `mean` and `std`, one per channel, are of the rescaled values."""

    image_size: int
    rescale_factor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames uint8, shape = (..., H, W, 3), as pixel values float32, shape = (..., 3, H, W).

        The arithmetic of `VideoLlavaImageProcessor`, step by step; the graphs use a shorter equivalent.
        """
        rescaled = frames.to(torch.float32) * self.rescale_factor
        normalised = (rescaled - torch.tensor(self.mean)) / torch.tensor(self.std)
        return normalised.movedim(-1, -3).contiguous()


def original_preprocessing() -> Preprocessing:
    """What the original code has in place of a preprocessor's file."""
    return Preprocessing(original.IMAGE_SIZE, 1 / 255, original.MEAN, original.STD)


def read_preprocessing(folder: Path, *, image_size: int) -> Preprocessing:
    """Read the preprocessors' files and check them against the towers' `image_size` in pixels.

    Raises `CheckpointError` unless frames become `image_size` square and are rescaled and normalised, by all files
    alike: transformers 5 takes the first of them, earlier releases another.
    """
    image, video = _find_settings(folder)
    if not image:
        raise CheckpointError(
            f"{folder} has neither preprocessor_config.json nor processor_config.json with an image_processor; "
            "download the whole checkpoint, or name the model that it was trained from: --base"
        )
    taken, settings = next(iter(image.items()))
    preprocessing = _parse(settings, image_size)
    for name, other in {**image, **video}.items():
        different = asdict(_parse(settings | other, image_size))
        for fact, value in asdict(preprocessing).items():
            if value != different[fact]:
                raise CheckpointError(
                    f"{folder} has two preprocessors, and the server takes one: {fact} is {value} of {taken} and "
                    f"{different[fact]} of {name}; make them equal, or remove the one that the training did not use"
                )
    return preprocessing


def _find_settings(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Of images and of videos, by file, in the order of transformers 5: a processor's file has both inside."""
    nested = read_json(folder / PROCESSOR) if (folder / PROCESSOR).is_file() else {}

    def find(medium: str, name: str) -> dict[str, dict[str, Any]]:
        own = {name: read_json(folder / name)} if (folder / name).is_file() else {}
        inside = nested.get(f"{medium}_processor")
        return ({f"{medium}_processor in {PROCESSOR}": inside} if isinstance(inside, dict) else {}) | own

    return find("image", "preprocessor_config.json"), find("video", "video_preprocessor_config.json")


def _parse(settings: dict[str, Any], image_size: int) -> Preprocessing:
    for switch in ("do_resize", "do_center_crop", "do_rescale", "do_normalize"):
        if not settings.get(switch, True):
            raise CheckpointError(f"the preprocessor has {switch} false; the server always does it, so it must be true")
    if (resample := settings.get("resample", BICUBIC)) != BICUBIC:
        raise CheckpointError(f"the preprocessor has resample {resample}; clients resize by {BICUBIC}, bicubic")
    _check_sizes(settings, image_size)
    return Preprocessing(
        image_size=image_size,
        rescale_factor=float(settings.get("rescale_factor", 1 / 255)),
        mean=_channels(settings, "image_mean"),
        std=_channels(settings, "image_std"),
    )


def _check_sizes(settings: dict[str, Any], image_size: int) -> None:
    shortest_edge = _edge(settings.get("size"), "size", "shortest_edge")
    height = _edge(settings.get("crop_size"), "crop_size", "height")
    width = _edge(settings.get("crop_size"), "crop_size", "width")
    if not shortest_edge == height == width:
        raise CheckpointError(
            f"the preprocessor resizes the shortest edge to {shortest_edge} and crops to {height}x{width}; "
            "both must be the same square"
        )
    if height != image_size:
        raise CheckpointError(
            f"the preprocessor crops to {height}, vision_config.image_size is {image_size}; make them equal"
        )


def _edge(value: Any, name: str, key: str) -> int:
    """Old files have an integer where new ones have an object."""
    edge = value.get(key) if isinstance(value, dict) else value
    if not isinstance(edge, int):
        raise CheckpointError(f"the preprocessor has {name} {value!r}; expected an object with {key}")
    return edge


def _channels(settings: dict[str, Any], name: str) -> tuple[float, float, float]:
    values = settings.get(name)
    if not isinstance(values, list) or len(values) != 3:
        raise CheckpointError(f"the preprocessor has {name} {values!r}; expected three numbers")
    red, green, blue = map(float, values)
    return red, green, blue
