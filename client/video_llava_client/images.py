"""Images: a file, bytes, a Pillow image or an array becomes the square of pixels that the model takes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from .conventions import Conventions
from .errors import MediaTooLarge, UnreadableMedia, VideoLlavaError
from .folders import find_folder
from .limits import Budget, MediaLimits
from .loading import Loading
from .pixels import Array, as_rgb, fit, is_array, to_pixels, upright
from .sources import MediaFile, MediaSource, is_media, open_media

if TYPE_CHECKING:
    from .workers.pool import DecoderProcesses

ImageSource = MediaSource | Image.Image | Array

# A closed list: Pillow would start Ghostscript for others.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
# HEIF files: by the first brand, those whose pictures are shown one after the other; FFmpeg reads their video track.
_SEQUENCE_BRANDS = {b"hevc", b"hevx", b"hevm", b"hevs", b"msf1"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"mif1"} | _SEQUENCE_BRANDS
_HEAD_BYTES = 256
_AVIF_BRANDS = {b"avif", b"avis"}  # AVIF is HEIF too; Pillow reads it
# Several pictures in one of these are an animation. A TIFF has pages, the JPEG of a phone a preview.
_ANIMATION_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
# Of pictures that are decoded together, and what each counts at least.
_GROUP_BYTES = 64 * 1024
_LEAST_BYTES = 16 * 1024


def load_image(
    source: ImageSource,
    *,
    size: int,
    limits: MediaLimits | None = None,
    decoders: DecoderProcesses | None = None,
    conventions: Conventions | None = None,
) -> NDArray[Any]:
    """Return an image as the model sees it, uint8 [size, size, 3] in RGB.

    Args:
        source: A path, bytes, a binary file object, an http(s) address, a Pillow image, or an array or a tensor uint8
            [height, width, 3] or [3, height, width] in RGB.
        size: Width and height that the server takes, in pixels.
        limits: None: the default ones.
        decoders: A file from a stranger is decoded in one of these processes; None: in this one.
        conventions: Of the server's model; None: the default ones.

    Raises:
        MediaError: It cannot be used; the text says why.
    """
    loading = Loading(limits=limits or MediaLimits(), decoders=decoders, conventions=conventions or Conventions())
    return load_images([source], size=size, loading=loading)[0]


def load_images(
    sources: Iterable[ImageSource], *, size: int, loading: Loading, names: Iterable[str] | None = None
) -> NDArray[Any]:
    """Return images as `load_image` does, as one array, uint8 [images, size, size, 3].

    `names`: for messages about those without a name of their own, such as arrays. Frames of a video are images under
    its conventions (`Conventions.of_frames`).
    """
    images: list[NDArray[Any]] = []
    names = iter(names or repeat("image"))
    for group in in_groups(sources):
        own_names = list(islice(names, len(group)))
        if loading.decoders is not None and is_media(group[0]):
            with loading.stopwatch.measure("decode"):
                images.extend(_load_elsewhere(group, size, loading, loading.decoders))
            continue
        for source, name in zip(group, own_names, strict=True):
            with loading.stopwatch.measure("decode"):
                image = _open_upright(source, loading, name)
            with loading.stopwatch.measure("preprocess"):
                images.append(np.asarray(fit(image, size=size, **loading.conventions.image_fit)))
    return np.stack(images)


def in_groups(sources: Iterable[ImageSource]) -> Iterator[list[ImageSource]]:
    """Divide pictures into groups, in order: small ones as bytes are decoded together, all others alone.

    Sending a picture to another process takes longer than decoding a small one.
    """
    group: list[ImageSource] = []
    num_bytes = 0
    for source in sources:
        own_bytes = max(len(source), _LEAST_BYTES) if isinstance(source, bytes) else _GROUP_BYTES
        if group and num_bytes + own_bytes > _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
        group.append(source)
        num_bytes += own_bytes
    if group:
        yield group


def as_images(images: ImageSource | Sequence[ImageSource]) -> tuple[ImageSource, ...]:
    """Return one, several or no images as a tuple; an array or a tensor is one image."""
    if isinstance(images, Image.Image) or is_array(images) or is_media(images):
        return (cast("ImageSource", images),)
    return tuple(cast("Sequence[ImageSource]", images))


def is_image(
    source: MediaSource, *, limits: MediaLimits | None = None, decoders: DecoderProcesses | None = None
) -> bool:
    """Whether this is one image, by its content. An animated GIF is a video, and so is a folder of frames.

    Arguments as those of `load_image`.

    Raises:
        MediaNotFound: There is no such file.
    """
    limits = limits or MediaLimits()
    if find_folder(source, limits.sources):
        return False
    with open_media(source, limits) as media:
        return holds_image(media) if decoders is None else decoders.holds_image(media)


def holds_image(media: MediaFile) -> bool:
    """Whether `media` is one image."""
    try:
        with _open(media) as image:
            return not is_animation(image) and not _SEQUENCE_BRANDS.intersection(_brands(media)[:1])
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
        with _open(media) as image:
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
        # Pillow's text names a descriptor, or an address in memory.
        reason = "its format is not known" if isinstance(exc, UnidentifiedImageError) else exc
        raise UnreadableMedia(
            f"{media.name}: cannot be read as an image ({reason}): "
            "give a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC file",
            source=media.name,
        ) from exc


def _open(media: MediaFile) -> Image.Image:
    brands = _brands(media)
    if brands and brands[0] in _HEIF_BRANDS and not _AVIF_BRANDS.intersection(brands):
        from pi_heif import HeifImageFile  # not registered with Pillow, which belongs to the whole program

        handle = media.rewound()
        with handle.open("rb") if isinstance(handle, Path) else nullcontext(handle) as file:
            _check_boxes(file)
        return HeifImageFile(media.rewound())
    return Image.open(media.rewound(), formats=_FORMATS)


def _check_boxes(file: BinaryIO) -> None:
    """Raise EOFError if the pictures of a HEIF file are cut off; its decoder would leave the rest of one black."""
    num_bytes, position = file.seek(0, io.SEEK_END), 0
    while position < num_bytes:
        file.seek(position)
        head = file.read(16)
        size, kind = int.from_bytes(head[:4]), head[4:8]
        if size == 1:
            size = int.from_bytes(head[8:])
        if kind in (b"meta", b"mdat") and position + size > num_bytes:
            raise EOFError(f"broken off: {position + size - num_bytes} bytes are missing")
        if size < 8:  # to the end of the file; or what some cameras write after the boxes
            return
        position += size


def _brands(media: MediaFile) -> list[bytes]:
    """Return the brands of a file of MP4's family, the main one first; none of another file."""
    head = media.head(_HEAD_BYTES)
    if head[4:8] != b"ftyp":
        return []
    box = head[8 : int.from_bytes(head[:4])]
    return [box[start : start + 4] for start in (0, *range(8, len(box), 4))]


def open_upright(media: MediaFile) -> Image.Image:
    """Return an image in its own size, in RGB, rotated by its EXIF data."""
    with open_image(media) as image:
        return as_rgb(upright(image), source=media.name)


def _load_elsewhere(
    group: Sequence[ImageSource], size: int, loading: Loading, decoders: DecoderProcesses
) -> NDArray[Any]:
    """Return the images of one group, decoded in another process."""
    source, lengths = group[0], []
    if len(group) > 1:
        contents = cast("Sequence[bytes]", group)
        source, lengths = b"".join(contents), list(map(len, contents))
    with open_media(cast("MediaSource", source), loading.limits, deadline=loading.deadline) as media:
        return decoders.load_images(media, size=size, conventions=loading.conventions, lengths=lengths)


def _open_upright(source: ImageSource, loading: Loading, name: str) -> Image.Image:
    """Return an image in RGB that is upright."""
    if is_array(source):
        source = Image.fromarray(to_pixels(source, source=name))
    if isinstance(source, Image.Image):
        Budget(loading.limits, source=name).check_picture(source.width, source.height)
        return as_rgb(upright(source), source=name)
    with open_media(cast("MediaSource", source), loading.limits, deadline=loading.deadline) as media:
        return open_upright(media)
