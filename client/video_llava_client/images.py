"""Pictures: a file, bytes, a Pillow image or an array becomes the square of pixels that the model takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from .errors import MediaError, MediaTooLarge, UnreadableMedia
from .limits import Deadline, MediaLimits
from .pixels import check_pixels, fit, upright
from .sources import Media, MediaSource, name_of, open_media

ImageSource = MediaSource | Image.Image | np.ndarray

# A closed list, because Pillow opens more than pictures: it would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# Where several pictures in one file are a film; a TIFF has pages, a phone's JPEG a preview.
_FILM_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")


def load_image(source: ImageSource, *, size: int, limits: MediaLimits | None = None) -> np.ndarray:
    """Return a picture as the model sees it, uint8 [size, size, 3] in RGB.

    Args:
        source: A path, bytes, a binary file object, an http(s) address, a Pillow image, or an array uint8
            [height, width, 3] in RGB.
        size: Width and height that the server takes, in pixels.
        limits: None: the default ones.

    Raises:
        MediaError: It cannot be used; the text says why.
    """
    return np.asarray(fit(open_upright(source, limits=limits or MediaLimits()), size=size))


def open_upright(source: ImageSource, *, limits: MediaLimits) -> Image.Image:
    """Return a picture in its own size, turned the way it was taken."""
    if isinstance(source, np.ndarray):
        check_pixels(source, ("height", "width", 3), source="image array")
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        limits.check_picture(source.width, source.height, source="image")
        return upright(source)
    deadline = Deadline(limits.timeout_seconds, source=name_of(source))
    with open_media(source, limits=limits, deadline=deadline) as media, open_image(media, limits=limits) as image:
        return upright(image)


def is_image(source: MediaSource, *, limits: MediaLimits | None = None) -> bool:
    """Whether this holds one picture, judged by its content; an animated GIF is a video.

    Raises:
        MediaNotFound: There is no such file.
    """
    limits = limits or MediaLimits()
    deadline = Deadline(limits.timeout_seconds, source=name_of(source))
    with open_media(source, limits=limits, deadline=deadline) as media:
        return holds_image(media)


def holds_image(media: Media) -> bool:
    """Whether `media` is one picture."""
    try:
        with Image.open(media.rewound(), formats=_FORMATS) as image:
            return not is_film(image)
    except (UnidentifiedImageError, SyntaxError, ValueError):
        return False
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except MediaError:
        raise
    except Exception as exc:
        raise UnreadableMedia(f"{media.name}: cannot be read ({exc})", source=media.name) from exc


def is_film(image: Image.Image) -> bool:
    """Whether the pictures of this file are shown one after the other."""
    return image.format in _FILM_FORMATS and getattr(image, "is_animated", False)


@contextmanager
def open_image(media: Media, *, limits: MediaLimits) -> Iterator[Image.Image]:
    """Open a picture, undecoded; the border at which Pillow's errors become ours, also those of decoding it.

    Raises:
        UnreadableMedia: Not a picture, or a damaged one.
        MediaTooLarge: It is over `limits`, or over Pillow's own.
    """
    try:
        with Image.open(media.rewound(), formats=_FORMATS) as image:
            limits.check_picture(image.width, image.height, source=media.name)
            yield image
    except MediaError:
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
