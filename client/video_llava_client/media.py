"""Media become the arrays that are sent: eight frames of a video (`Clip`), or pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Self, TypeGuard, cast

import numpy as np
from PIL import Image

from .errors import MediaError, NoFrames, OptionError, UnreadableMedia
from .images import ImageSource as ImageSource
from .images import holds_image, open_upright
from .images import is_image as is_image
from .images import load_image as load_image
from .limits import Deadline, MediaLimits
from .pixels import check_pixels, describe, fit, fit_pixels
from .sampling import NUM_FRAMES, SampledVideo, sample_indices
from .sources import Media, MediaSource, is_media, name_of, open_media
from .window import Window

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

_DEFAULT_LIMITS = MediaLimits()
_WHOLE = Window()


@dataclass(frozen=True)
class ClipInfo:
    """Which frames of a video the model sees.

    Attributes:
        source: The file's name, or what stands for it.
        indices: The place of each of the eight frames in the video, in presentation order, from 0.
        pts_seconds: When each is shown by the file's own clock, which need not start at 0; None where it does not say.
        num_frames: How many frames the video has; None where nobody counted.
        duration_seconds: From the first frame to the end of the last; None where it is not known.
        warnings: What went wrong without making the video useless, such as "truncated: the file promises 250 frames
            and holds 112".
    """

    source: str
    indices: tuple[int, ...]
    pts_seconds: tuple[float | None, ...]
    num_frames: int | None = None
    duration_seconds: float | None = None
    warnings: tuple[str, ...] = ()

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
    | `clip = Clip.load("clip.mp4", size=224)` | without a server |
    | `client.ask("What happens?", video=clip)` | no decoding any more |

    Attributes:
        frames: uint8 [8, height, width, 3], RGB. Frames of another size than the server's are fitted to it.
        info: Where they come from.
    """

    frames: np.ndarray
    info: ClipInfo

    def __post_init__(self) -> None:
        check_pixels(self.frames, (NUM_FRAMES, "height", "width", 3), source=self.info.source)

    def __repr__(self) -> str:
        return f"Clip(frames={describe(self.frames)}, source={self.info.source!r})"

    @classmethod
    def load(
        cls,
        source: VideoSource,
        *,
        size: int,
        start_seconds: float | None = None,
        end_seconds: float | None = None,
        limits: MediaLimits = _DEFAULT_LIMITS,
    ) -> Self:
        """Decode the eight frames that the model sees of a video, `size` x `size` pixels each.

        They are those of the reference: of `n` frames the ones with index `i * n // 8`, so a video of fewer than
        eight shows some twice. Pictures are turned upright where the file says how it was filmed (the reference
        does not look). As in the reference, pixels are taken as stored whatever their aspect ratio, alpha is
        dropped, HDR is not tone-mapped, interlaced frames are not taken apart.

        Args:
            source: A path, bytes, a binary file object or a pipe, an http(s) address, or the frames themselves:
                arrays uint8 [height, width, 3] in RGB, one for each frame, in a sequence or one array. A file
                object is read from its beginning, whatever its position, and stays open.
            size: Width and height that the server takes, in pixels.
            start_seconds: Look only at what is shown from here on, counted from the first frame.
            end_seconds: Look only at what is shown before this.
            limits: What the video may be and cost.

        Raises:
            MediaError: The video cannot be used; the text says why.
            OptionError: The times are no window.
        """
        window = Window(start_seconds, end_seconds)
        return cls._load(source, size=size, window=window, limits=limits, stopwatch=Stopwatch())

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, size: int) -> Self:
        """Return `load` of a file."""
        return cls.load(path, size=size)

    @classmethod
    def _load(
        cls, source: VideoSource, *, size: int, window: Window, limits: MediaLimits, stopwatch: Stopwatch
    ) -> Self:
        if (isinstance(source, Clip) or _are_frames(source)) and not window.is_whole:
            raise OptionError("start_seconds and end_seconds need a file: frames carry no times, choose among them")
        if isinstance(source, Clip):
            return source._fitted(size, stopwatch)  # pyright: ignore[reportReturnType]
        if _are_frames(source):
            return cls._from_frames(source, size=size, limits=limits, stopwatch=stopwatch)
        file = cast("MediaSource", source)
        deadline = Deadline(limits.timeout_seconds, source=name_of(file))
        with open_media(file, limits=limits, deadline=deadline) as media, ThreadPoolExecutor(1) as beside:
            with stopwatch.measure("decode"):
                sampled = _sample(media, size=size, window=window, limits=limits, deadline=deadline, beside=beside)
            with stopwatch.measure("preprocess"):
                frames = np.stack([frame.picture.result() for frame in sampled.frames])
        info = ClipInfo(
            source=media.name,
            indices=tuple(frame.index for frame in sampled.frames),
            pts_seconds=tuple(frame.pts_seconds for frame in sampled.frames),
            num_frames=sampled.num_frames,
            duration_seconds=sampled.duration_seconds,
            warnings=sampled.warnings,
        )
        return cls(frames, info)

    @classmethod
    def _from_frames(
        cls, frames: np.ndarray | Sequence[np.ndarray], *, size: int, limits: MediaLimits, stopwatch: Stopwatch
    ) -> Self:
        if not len(frames):
            raise NoFrames("frames: there are none: give at least one", source="frames")
        indices = sample_indices(len(frames))
        chosen = [np.asarray(frames[index]) for index in indices]
        for index, frame in zip(indices, chosen, strict=True):
            check_pixels(frame, ("height", "width", 3), source=f"frames[{index}]")
            limits.check_picture(frame.shape[1], frame.shape[0], source=f"frames[{index}]")
        with stopwatch.measure("preprocess"):
            fitted = np.stack([fit_pixels(frame, size=size) for frame in chosen])
        return cls(fitted, ClipInfo("frames", indices, (None,) * NUM_FRAMES, num_frames=len(frames)))

    def _fitted(self, size: int, stopwatch: Stopwatch) -> Self:
        if self.frames.shape[1:3] == (size, size):
            return self
        with stopwatch.measure("preprocess"):
            frames = np.stack([fit_pixels(frame, size=size) for frame in self.frames])
        return replace(self, frames=frames)


VideoSource = MediaSource | np.ndarray | Sequence[np.ndarray] | Clip


def is_one_video(source: VideoSource | Sequence[VideoSource]) -> TypeGuard[VideoSource]:
    """Whether this is one video, and not several. Frames come as one array: a sequence is of videos."""
    return isinstance(source, Clip | np.ndarray) or is_media(source)


def is_one_image(source: ImageSource | Sequence[ImageSource]) -> TypeGuard[ImageSource]:
    """Whether this is one image, and not several."""
    return isinstance(source, Image.Image | np.ndarray) or is_media(source)


class Stopwatch:
    """Adds up the seconds spent on media, by stage.

    "decode" is finding and decoding frames. They are resized beside it, on another thread: "preprocess" is what
    that takes longer.
    """

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


def load_clips(
    sources: Iterable[VideoSource],
    *,
    size: int,
    stopwatch: Stopwatch,
    window: Window = _WHOLE,
    limits: MediaLimits = _DEFAULT_LIMITS,
) -> tuple[Clip, ...]:
    """Return each video as a clip of `size` x `size` pixels; clips that are ready are not decoded again."""
    return tuple(Clip._load(source, size=size, window=window, limits=limits, stopwatch=stopwatch) for source in sources)


def load_images(
    sources: Iterable[ImageSource], *, size: int, stopwatch: Stopwatch, limits: MediaLimits = _DEFAULT_LIMITS
) -> np.ndarray:
    """Return the images as one array, uint8 [images, size, size, 3]."""
    images = []
    for source in sources:
        with stopwatch.measure("decode"):
            image = open_upright(source, limits=limits)
        with stopwatch.measure("preprocess"):
            images.append(np.asarray(fit(image, size=size)))
    return np.stack(images)


def _sample(
    media: Media, *, size: int, window: Window, limits: MediaLimits, deadline: Deadline, beside: ThreadPoolExecutor
) -> SampledVideo[Future[np.ndarray]]:
    """Return the sampled video, whose pictures will be uint8 [size, size, 3]."""
    # PyAV brings all of FFmpeg along; whoever sends text, images or ready clips does without.
    from .animations import is_webp, sample_animation
    from .decoding import sample_video, to_rgb

    def fit_beside(pixels: Callable[[], np.ndarray], width: int, height: int) -> Future[np.ndarray]:
        limits.check_picture(width, height, source=media.name)
        return beside.submit(lambda: fit_pixels(pixels(), size=size))

    def fit_image(image: Image.Image) -> Future[np.ndarray]:
        return fit_beside(lambda: np.asarray(image), image.width, image.height)

    def fit_frame(frame: VideoFrame) -> Future[np.ndarray]:
        return fit_beside(lambda: to_rgb(frame, source=media.name), frame.width, frame.height)

    if is_webp(media):
        return sample_animation(media, convert=fit_image, window=window, limits=limits, deadline=deadline)
    try:
        return sample_video(media, convert=fit_frame, window=window, limits=limits, deadline=deadline)
    except UnreadableMedia as exc:
        if not holds_image(media):
            raise
        message = f"{media.name}: is a picture, not a video: give it as an image"
        raise UnreadableMedia(message, source=media.name) from exc


def _are_frames(source: VideoSource) -> TypeGuard[np.ndarray | Sequence[np.ndarray]]:
    return isinstance(source, np.ndarray | Sequence) and not is_media(source)
