"""Images: a file, bytes, a Pillow image or an array becomes the square of pixels that the model takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, UnidentifiedImageError

from .deadline import Deadline
from .errors import MediaTooLarge, UnreadableMedia, VideoLlavaError
from .limits import Budget, MediaLimits
from .pixels import check_pixels, fit, upright
from .sources import MediaFile, MediaSource, is_media, open_media
from .stopwatch import Stopwatch

if TYPE_CHECKING:
    from .workers.pool import DecoderProcesses

ImageSource = MediaSource | Image.Image | np.ndarray

# A closed list: Pillow would start Ghostscript for others.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Several pictures in one of these are an animation. A TIFF has pages, the JPEG of a phone a preview.
_ANIMATION_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")


def load_image(
    source: ImageSource,
    *,
    size: int,
    limits: MediaLimits | None = None,
    deadline: Deadline | None = None,
    decoders: DecoderProcesses | None = None,
) -> np.ndarray:
    """Return an image as the model sees it, uint8 [size, size, 3] in RGB.

    Args:
        source: A path, bytes, a binary file object, an http(s) address, a Pillow image, or an array uint8
            [height, width, 3] in RGB.
        size: Width and height that the server takes, in pixels.
        limits: None: the default ones.
        deadline: Of the request that needs it.
        decoders: A file from a stranger is decoded in one of these processes; None: in this one.

    Raises:
        MediaError: It cannot be used; the text says why.
    """
    return load_images([source], size=size, limits=limits, deadline=deadline, decoders=decoders)[0]


def load_images(
    sources: Iterable[ImageSource],
    *,
    size: int,
    limits: MediaLimits | None = None,
    deadline: Deadline | None = None,
    stopwatch: Stopwatch | None = None,
    decoders: DecoderProcesses | None = None,
) -> np.ndarray:
    """Return images as `load_image` does, as one array, uint8 [images, size, size, 3]."""
    limits, stopwatch, images = limits or MediaLimits(), stopwatch or Stopwatch(), []
    for source in sources:
        with stopwatch.measure("decode"):
            image = _open_upright(source, limits, deadline, size, decoders)
        with stopwatch.measure("preprocess"):
            images.append(np.asarray(fit(image, size=size)))
    return np.stack(images)


def as_images(images: ImageSource | Sequence[ImageSource]) -> tuple[ImageSource, ...]:
    """Return one, several or no images as a tuple; an array is one image."""
    if isinstance(images, Image.Image | np.ndarray) or is_media(images):
        return (cast("ImageSource", images),)
    return tuple(cast("Sequence[ImageSource]", images))


def is_image(
    source: MediaSource, *, limits: MediaLimits | None = None, decoders: DecoderProcesses | None = None
) -> bool:
    """Whether this is one image, by its content. An animated GIF is a video. Arguments as those of `load_image`.

    Raises:
        MediaNotFound: There is no such file.
    """
    with open_media(source, limits or MediaLimits()) as media:
        return holds_image(media) if decoders is None else decoders.holds_image(media)


def holds_image(media: MediaFile) -> bool:
    """Whether `media` is one image."""
    try:
        with Image.open(media.rewound(), formats=_FORMATS) as image:
            return not is_animation(image)
    except (UnidentifiedImageError, SyntaxError, ValueError):
        return False
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except VideoLlavaError:
        raise
    except Exception as exc:
        raise UnreadableMedia(f"{media.name}: cannot be read ({exc})", source=media.name) from exc


def is_animation(image: Image.Image) -> bool:
    """Whether the pictures of this file are shown one after the other."""
    return image.format in _ANIMATION_FORMATS and getattr(image, "is_animated", False)


@contextmanager
def open_image(media: MediaFile) -> Iterator[Image.Image]:
    """Open an image without decoding it. Pillow's errors inside the block become this package's.

    Raises:
        UnreadableMedia: Not an image, or a damaged one.
        MediaTooLarge: It exceeds its limits or Pillow's own.
    """
    try:
        with Image.open(media.rewound(), formats=_FORMATS) as image:
            media.budget.check_picture(image.width, image.height)
            yield image
    except VideoLlavaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise MediaTooLarge(
            f"{media.name}: has too many pixels ({exc}): give a smaller picture, or raise PIL.Image.MAX_IMAGE_PIXELS",
            source=media.name,
        ) from exc
    except Exception as exc:
        raise UnreadableMedia(
            f"{media.name}: cannot be read as an image ({exc}): give a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file",
            source=media.name,
        ) from exc


def open_upright(media: MediaFile) -> Image.Image:
    """Return an image in its own size, rotated by its EXIF data."""
    with open_image(media) as image:
        return upright(image)


def _open_upright(
    source: ImageSource,
    limits: MediaLimits,
    deadline: Deadline | None,
    size: int,
    decoders: DecoderProcesses | None,
) -> Image.Image:
    """Return an image that is upright; from another process, in its final size."""
    if isinstance(source, np.ndarray):
        check_pixels(source, ("height", "width", 3), source="image array")
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        Budget(limits, source="image").check_picture(source.width, source.height)
        return upright(source)
    with open_media(source, limits, deadline=deadline) as media:
        return open_upright(media) if decoders is None else Image.fromarray(decoders.load_image(media, size=size))
