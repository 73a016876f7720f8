"""The eight frames of a video that the model sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from os import PathLike
from typing import TYPE_CHECKING, Self, TypeGuard, cast

import numpy as np
from PIL import Image

from .deadline import Deadline
from .errors import MediaError, NoFrames, OptionError, UnreadableMedia
from .images import holds_image
from .limits import Budget, MediaLimits
from .pixels import check_pixels, describe, fit_pixels
from .sampling import NUM_FRAMES, SampledVideo, sample_indices
from .sources import MediaFile, MediaSource, is_media, open_media
from .stopwatch import Stopwatch
from .window import Window

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

    from .orientation import Orientation
    from .workers.pool import DecoderProcesses


@dataclass(frozen=True)
class ClipInfo:
    """Which frames of a video the model sees.

    Attributes:
        source: The name of the file, or what stands for it.
        indices: The place of each frame in the video, in presentation order, from 0.
        pts_seconds: When each is shown by the file's clock, which need not start at 0; None if the file does not say.
        num_frames: Frames of the video; None if they were not counted.
        duration_seconds: From the first frame to the end of the last; None if not known.
        warnings: Defects that leave the video usable, such as "truncated: the file promises 250 frames and holds 112".
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
    """The eight frames of one video that the model sees: decoded once, used for many questions.

    | Usage | |
    |---|---|
    | `clip = client.load("clip.mp4")` | in the frame size of the server |
    | `clip = Clip.load("clip.mp4", size=224)` | without a server |
    | `client.ask("What happens?", video=clip)` | no decoding |

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
        limits: MediaLimits | None = None,
        decoders: DecoderProcesses | None = None,
    ) -> Self:
        """Decode the eight frames that the model sees of a video, `size` x `size` pixels each.

        As in the reference: of `n` frames those with index `i * n // 8`, so a video of fewer than eight shows some
        twice; pixels as stored whatever their aspect ratio, alpha dropped, HDR not tone-mapped, not deinterlaced.
        Unlike the reference, frames are rotated if the file says how it was filmed.

        Args:
            source: A path, bytes, a binary file object or a pipe, an http(s) address, or the frames themselves:
                arrays uint8 [height, width, 3] in RGB, one for each frame, in a sequence or one array. A file
                object is read from its beginning and stays open.
            size: Width and height that the server takes, in pixels.
            start_seconds: Use only frames from here on, counted from the first frame.
            end_seconds: Use only frames before this.
            limits: What the video may be and cost; None: the default ones.
            decoders: A file from a stranger is decoded in one of these processes; None: in this one.

        Raises:
            MediaError: The video cannot be used; the text says why.
            OptionError: The times are no window.
        """
        window = Window(start_seconds, end_seconds)
        limits, stopwatch = limits or MediaLimits(), Stopwatch()
        return cls.load_window(source, size=size, window=window, limits=limits, stopwatch=stopwatch, decoders=decoders)

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, size: int) -> Self:
        """Return `load` of a file."""
        return cls.load(path, size=size)

    @classmethod
    def load_window(
        cls,
        source: VideoSource,
        *,
        size: int,
        window: Window,
        limits: MediaLimits,
        deadline: Deadline | None = None,
        stopwatch: Stopwatch,
        decoders: DecoderProcesses | None = None,
    ) -> Self:
        """Decode as `load` does, until `deadline`, and add the time to `stopwatch`; a clip is only resized."""
        is_decoded = isinstance(source, Clip) or _are_frames(source)
        if is_decoded and not window.is_whole:
            raise OptionError("start_seconds and end_seconds need a file: frames have no times, choose among them")
        if isinstance(source, Clip):
            return source._fitted(size, stopwatch)  # pyright: ignore[reportReturnType]
        if _are_frames(source):
            return cls._from_frames(source, size=size, limits=limits, stopwatch=stopwatch)
        file = cast("MediaSource", source)
        with open_media(file, limits, deadline=deadline) as media:
            if decoders is not None:
                with stopwatch.measure("decode"):
                    frames, info = decoders.load_clip(media, size=size, window=window)
                return cls(frames, ClipInfo(**info))
            return cls.from_media(media, size=size, window=window, stopwatch=stopwatch)

    @classmethod
    def from_media(cls, media: MediaFile, *, size: int, window: Window, stopwatch: Stopwatch) -> Self:
        """Decode an open file in this process."""
        with ThreadPoolExecutor(1) as resizer:
            with stopwatch.measure("decode"):
                sampled = _sample(media, size=size, window=window, resizer=resizer)
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
            Budget(limits, source=f"frames[{index}]").check_picture(frame.shape[1], frame.shape[0])
        with stopwatch.measure("preprocess"):
            fitted = np.stack([fit_pixels(frame, size=size) for frame in chosen])
        return cls(fitted, ClipInfo("frames", indices, (None,) * NUM_FRAMES, num_frames=len(frames)))

    def _fitted(self, size: int, stopwatch: Stopwatch) -> Self:
        if self.frames.shape[1:3] == (size, size):
            return self
        with stopwatch.measure("preprocess"):
            return replace(self, frames=np.stack([fit_pixels(frame, size=size) for frame in self.frames]))


VideoSource = MediaSource | np.ndarray | Sequence[np.ndarray] | Clip


def as_videos(video: VideoSource | Sequence[VideoSource] | None) -> tuple[VideoSource, ...]:
    """Return one, several or no videos as a tuple. Frames come as one array: a sequence is of videos."""
    if video is None:
        return ()
    if isinstance(video, Clip | np.ndarray) or is_media(video):
        return (cast("VideoSource", video),)
    return tuple(cast("Sequence[VideoSource]", video))


def _sample(
    media: MediaFile, *, size: int, window: Window, resizer: ThreadPoolExecutor
) -> SampledVideo[Future[np.ndarray]]:
    """Return the sampled video; `resizer` makes its pictures, uint8 [size, size, 3]."""
    # PyAV loads all of FFmpeg: text, images and clips do without.
    from .animations import is_webp, sample_animation
    from .decoding import sample_video, to_rgb

    def resize(pixels: Callable[[], np.ndarray], width: int, height: int) -> Future[np.ndarray]:
        media.budget.check_picture(width, height)
        return resizer.submit(lambda: fit_pixels(pixels(), size=size))

    def resize_image(image: Image.Image) -> Future[np.ndarray]:
        return resize(lambda: np.asarray(image), image.width, image.height)

    def resize_frame(frame: VideoFrame, orientation: Orientation) -> Future[np.ndarray]:
        return resize(lambda: to_rgb(frame, orientation, source=media.name), frame.width, frame.height)

    if is_webp(media):
        return sample_animation(media, convert=resize_image, window=window)
    try:
        return sample_video(media, convert=resize_frame, window=window)
    except UnreadableMedia as exc:
        if not holds_image(media):
            raise
        message = f"{media.name}: is a picture, not a video: give it as an image"
        raise UnreadableMedia(message, source=media.name) from exc


def _are_frames(source: VideoSource) -> TypeGuard[np.ndarray | Sequence[np.ndarray]]:
    return isinstance(source, np.ndarray | Sequence) and not is_media(source)
