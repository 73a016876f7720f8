"""Media become the arrays that are sent: files are opened here, and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import MediaError, MediaNotFound, UnreadableMedia
from .pixels import fit, upright
from .sampling import NUM_FRAMES

# A closed list, because Pillow opens more than pictures: it would start Ghostscript.
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Where several pictures in one file are a film; a TIFF has pages, a phone's JPEG a preview.
_FILM_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")


@dataclass(frozen=True)
class ClipInfo:
    """Which frames of a video the model sees.

    Attributes:
        source: The file's name.
        indices: The place of each of the eight frames in the video, in presentation order, from 0.
        pts_seconds: When each is shown by the file's own clock, which need not start at 0; None where it does not say.
    """

    source: str
    indices: tuple[int, ...]
    pts_seconds: tuple[float | None, ...]

    def __post_init__(self) -> None:
        for name, values in (("indices", self.indices), ("pts_seconds", self.pts_seconds)):
            if len(values) != NUM_FRAMES:
                message = f"{self.source}: expected {NUM_FRAMES} {name}, one for each frame, got {len(values)}"
                raise MediaError(message, source=self.source)


@dataclass(frozen=True, eq=False)
class Clip:
    """The eight frames of one video that the model sees: decoded once, good for many questions.

    | Usage | |
    |---|---|
    | `clip = client.load("clip.mp4")` | in the frame size of the server |
    | `clip = Clip.from_file("clip.mp4", size=224)` | without a server |
    | `client.ask("What happens?", video=clip)` | no decoding any more |

    Attributes:
        frames: uint8 [8, height, width, 3], RGB. Frames of another size than the server's are fitted to it.
        info: Where they come from.
    """

    frames: np.ndarray
    info: ClipInfo

    def __post_init__(self) -> None:
        shape = (NUM_FRAMES, "height", "width", 3)
        _check_pixels(self.frames, shape, source=self.info.source)

    def __repr__(self) -> str:
        return f"Clip(frames={_describe(self.frames)}, source={self.info.source!r})"

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, size: int) -> Self:
        """Decode the video at `path` into frames of `size` x `size` pixels.

        Raises:
            MediaError: The file cannot be used; the text says why.
        """
        return cls._load(Path(path), size, Stopwatch())

    @classmethod
    def _load(cls, path: Path, size: int, stopwatch: Stopwatch) -> Self:
        # PyAV brings all of FFmpeg along; whoever sends text, images or ready clips does without.
        from .decoding import sample_video

        _check_is_file(path)
        with stopwatch.measure("decode"):
            sampled = sample_video(path)
        with stopwatch.measure("preprocess"):
            frames = np.stack([_fit_pixels(frame.to_rgb(), size) for frame in sampled])
        indices, times = zip(*((frame.index, frame.pts_seconds) for frame in sampled), strict=True)
        return cls(frames, ClipInfo(str(path), indices, times))

    def _fitted(self, size: int, stopwatch: Stopwatch) -> Self:
        if self.frames.shape[1:3] == (size, size):
            return self
        with stopwatch.measure("preprocess"):
            frames = np.stack([_fit_pixels(frame, size) for frame in self.frames])
        return type(self)(frames, self.info)


VideoSource = str | PathLike[str] | Clip
ImageSource = str | PathLike[str] | Image.Image | np.ndarray


class Stopwatch:
    """Adds up the seconds spent on media, by stage: "decode" and "preprocess"."""

    def __init__(self) -> None:
        self.seconds = {"decode": 0.0, "preprocess": 0.0}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Count the time inside the block to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - started


def load_clips(sources: Iterable[VideoSource], *, size: int, stopwatch: Stopwatch) -> tuple[Clip, ...]:
    """Return each video as a clip of `size` x `size` pixels; clips that are ready are not decoded again."""
    return tuple(
        source._fitted(size, stopwatch) if isinstance(source, Clip) else Clip._load(Path(source), size, stopwatch)
        for source in sources
    )


def load_images(sources: Iterable[ImageSource], *, size: int, stopwatch: Stopwatch) -> np.ndarray:
    """Return the images as one array, uint8 [images, size, size, 3]."""
    return np.stack([_load_image(source, size, stopwatch) for source in sources])


def _load_image(source: ImageSource, size: int, stopwatch: Stopwatch) -> np.ndarray:
    with stopwatch.measure("decode"):
        image = _open_image(source)
    with stopwatch.measure("preprocess"):
        return np.asarray(fit(image, size=size))


def is_image(path: str | PathLike[str]) -> bool:
    """Whether the file holds one picture, judged by its content; an animated GIF is a video.

    Raises:
        MediaNotFound: There is no such file.
    """
    _check_is_file(Path(path))
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            return not (image.format in _FILM_FORMATS and getattr(image, "is_animated", False))
    except UnidentifiedImageError:
        return False
    except Image.DecompressionBombError:
        return True
    except OSError as exc:
        raise UnreadableMedia(f"{path}: cannot be read ({exc.strerror})", source=str(path)) from exc


def _open_image(source: ImageSource) -> Image.Image:
    if isinstance(source, Image.Image):
        return upright(source)
    if isinstance(source, np.ndarray):
        _check_pixels(source, ("height", "width", 3), source="image array")
        return Image.fromarray(source)
    path = Path(source)
    _check_is_file(path)
    try:
        with Image.open(path, formats=_IMAGE_FORMATS) as image:
            return upright(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as exc:
        raise UnreadableMedia(
            f"{path}: cannot be read as an image ({exc}): give a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file",
            source=str(path),
        ) from exc


def _fit_pixels(pixels: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(fit(Image.fromarray(pixels), size=size))


def _check_is_file(path: Path) -> None:
    try:
        if path.is_dir():
            raise UnreadableMedia(f"{path}: is a folder: name one file", source=str(path))
        path.stat()
    except OSError as exc:
        reason = (exc.strerror or "no such file").lower()
        raise MediaNotFound(f"{path}: {reason}: check the name", source=str(path)) from exc


def _check_pixels(pixels: np.ndarray, shape: tuple[int | str, ...], *, source: str) -> None:
    """Raise MediaError unless `pixels` is uint8 of `shape`, in which a word stands for any size but 0."""
    fits = len(pixels.shape) == len(shape) and all(
        actual == expected if isinstance(expected, int) else actual > 0
        for actual, expected in zip(pixels.shape, shape, strict=True)
    )
    if pixels.dtype != np.uint8 or not fits:
        expected = f"uint8[{', '.join(map(str, shape))}]"
        raise MediaError(f"{source}: expected pixels {expected}, got {_describe(pixels)}", source=source)


def _describe(pixels: np.ndarray) -> str:
    return f"{pixels.dtype}{list(pixels.shape)}"
