"""The eight frames of an animated WebP, which FFmpeg does not decode, by Pillow."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from PIL import Image

from .errors import OptionError, UnreadableMedia
from .images import is_animation, open_image
from .sampling import SampledFrame, SampledVideo
from .sources import MediaFile
from .window import Window

T = TypeVar("T")


def is_webp(media: MediaFile) -> bool:
    """Whether the file is WebP, by its first bytes."""
    head = media.head(12)
    return head[:4] == b"RIFF" and head[8:] == b"WEBP"


def sample_animation(media: MediaFile, *, convert: Callable[[Image.Image], T], window: Window) -> SampledVideo[T]:
    """Decode the eight frames of `media` that the model sees; `convert` is called with each."""
    with open_image(media) as image:
        if not is_animation(image):
            raise UnreadableMedia(f"{media.name}: is a picture, not a video: give it as an image", source=media.name)
        if window.video_stream:
            raise OptionError(f"video_stream={window.video_stream}: {media.name} has one stream, 0")
        # WebP has a duration for each frame, and decodes only from the first on.
        shown_seconds = [frame.info["duration"] / 1000 for _, frame in _frames(image, media)]
        ends = np.cumsum(shown_seconds)
        media.budget.check_duration(float(ends[-1]))
        starts = ends - shown_seconds
        indices = window.choose(len(starts), starts, source=media.name)
        found = {
            index: SampledFrame(index, float(starts[index]), convert(frame.convert("RGB")))
            for index, frame in _frames(image, media)
            if index in indices
        }
    return SampledVideo(tuple(found[index] for index in indices), len(starts), float(ends[-1]))


def _frames(image: Image.Image, media: MediaFile) -> Iterator[tuple[int, Image.Image]]:
    for index in range(getattr(image, "n_frames", 1)):
        media.budget.check_time()
        image.seek(index)
        image.load()
        yield index, image
