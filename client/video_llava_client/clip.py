"""The eight frames of a video that the model sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .conventions import Conventions
from .errors import MediaError, NoFrames, OptionError, UnreadableMedia
from .folders import find_folder, list_frames
from .images import holds_image, load_images
from .limits import MediaLimits
from .loading import Loading
from .pixels import Array, check_pixels, describe, fit_pixels, is_array, is_frame, to_pixels
from .sampling import SampledVideo
from .sources import MediaFile, MediaSource, is_media, open_media
from .window import Window, WindowOptions

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
        if (num_times := len(self.pts_seconds)) != (num_frames := len(self.indices)):
            message = f"{self.source}: expected {num_frames} pts_seconds, one for each frame, got {num_times}"
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
        frames: uint8 [frames, height, width, 3], RGB. Frames of another size than the server's are fitted to it.
        info: Where they come from.
    """

    frames: NDArray[Any]
    info: ClipInfo

    def __post_init__(self) -> None:
        check_pixels(self.frames, (len(self.info.indices), "height", "width", 3), source=self.info.source)

    def __repr__(self) -> str:
        return f"Clip(frames={describe(self.frames)}, source={self.info.source!r})"

    @classmethod
    def load(
        cls,
        source: VideoSource,
        *,
        size: int,
        limits: MediaLimits | None = None,
        decoders: DecoderProcesses | None = None,
        conventions: Conventions | None = None,
        **options: Unpack[WindowOptions],
    ) -> Self:
        """Decode the eight frames that the model sees of a video, `size` x `size` pixels each.

        As in the reference: of `n` frames those with index `i * n // 8`, so a video of fewer than eight shows some
        twice; pixels as stored whatever their aspect ratio, alpha dropped, HDR not tone-mapped, not deinterlaced.
        Unlike the reference, frames are turned and mirrored as the file says.

        Args:
            source: A path, bytes, a binary file object or a pipe, an http(s) address, a folder of numbered pictures, or
                the frames themselves in a sequence: Pillow images, or arrays or tensors, uint8 [height, width, 3] or
                [3, height, width] in RGB; or one array of four dimensions. A file object is read from its beginning
                and stays open.
            size: Width and height that the server takes, in pixels.
            limits: What the video may be and cost; None: the default ones.
            decoders: A file from a stranger is decoded in one of these processes; None: in this one.
            options:
                start_seconds: Use only frames from here on, counted from the first frame.
                end_seconds: Use only frames before this.
                frame_indices: Use these eight frames, by their place in presentation order, from 0.
                frame_seconds: Use the eight frames that are shown at these times, counted from the first frame.
                video_stream: Use this stream of the file, by its number among all streams, as ffprobe shows it; by
                    default the one that players show.

        Raises:
            MediaError: The video cannot be used; the text says why.
            OptionError: The options contradict each other, or do not fit the source.
        """
        loading = Loading(limits=limits or MediaLimits(), decoders=decoders, conventions=conventions or Conventions())
        return cls.load_window(source, size=size, window=Window.from_options(options), loading=loading)

    @classmethod
    def from_file(cls, path: str | PathLike[str], *, size: int) -> Self:
        """Return `load` of a file."""
        return cls.load(path, size=size)

    @classmethod
    def load_window(cls, source: VideoSource, *, size: int, window: Window, loading: Loading) -> Self:
        """Decode as `load` does; a clip is only resized."""
        if isinstance(source, Clip):
            if not window.is_whole:
                raise OptionError("start_seconds and the like need a file: this clip is decoded, load it again")
            return source._fitted(size, loading)  # pyright: ignore[reportReturnType]
        window = window.of_model(loading.conventions)
        if folder := find_folder(source, loading.limits.sources):
            frames, warnings = list_frames(folder)
            return cls._from_frames(frames, str(folder), warnings, size=size, window=window, loading=loading)
        if is_array(source) or (isinstance(source, Sequence) and not is_media(source)):
            return cls._from_frames(_check_frames(source), "frames", (), size=size, window=window, loading=loading)
        file, stopwatch = cast("MediaSource", source), loading.stopwatch
        with open_media(file, loading.limits, deadline=loading.deadline) as media:
            if loading.decoders is None:
                return cls.from_media(media, size=size, window=window, loading=loading)
            with stopwatch.measure("decode"):
                frames, info = loading.decoders.load_clip(
                    media, size=size, window=window, conventions=loading.conventions
                )
            return cls(frames, ClipInfo(**info))

    @classmethod
    def from_media(cls, media: MediaFile, *, size: int, window: Window, loading: Loading) -> Self:
        """Decode an open file in this process."""
        stopwatch = loading.stopwatch
        fitted = partial(fit_pixels, size=size, resize=loading.conventions.video_resize)
        with ThreadPoolExecutor(1) as resizer:
            with stopwatch.measure("decode"):
                sampled = _sample(media, fit=fitted, window=window, resizer=resizer)
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
        cls, frames: Any, name: str, warnings: tuple[str, ...], *, size: int, window: Window, loading: Loading
    ) -> Self:
        """Return the clip of pictures, given as `load_images` takes them."""
        if window.needs_times or window.video_stream is not None:
            message = "start_seconds and end_seconds need a file: frames have no times, choose among them"
            raise OptionError(f"{message}, or by frame_indices; nor have they a video_stream")
        indices = window.choose(len(frames), np.empty(0), source=name)
        shown = sorted(set(indices))
        names = [f"frames[{index}]" for index in shown]
        pictures = [frames[index] for index in shown]
        loading = replace(loading, conventions=loading.conventions.of_frames)
        pixels = load_images(pictures, size=size, loading=loading, names=names)
        info = ClipInfo(name, indices, (None,) * len(indices), num_frames=len(frames), warnings=warnings)
        return cls(pixels[np.searchsorted(shown, indices)], info)

    def _fitted(self, size: int, loading: Loading) -> Self:
        if (num_frames := len(self.frames)) != (wanted := loading.conventions.num_frames):
            message = f"{self.info.source}: has {num_frames} frames, the model sees {wanted}: load the video again"
            raise MediaError(message, source=self.info.source)
        if self.frames.shape[1:3] == (size, size):
            return self
        with loading.stopwatch.measure("preprocess"):
            resize = loading.conventions.video_resize
            frames = [fit_pixels(frame, size=size, resize=resize) for frame in self.frames]
            return replace(self, frames=np.stack(frames))


# A sequence holds the frames of one video.
VideoSource = MediaSource | Array | Sequence[Array | Image.Image] | Clip


def as_videos(video: VideoSource | Sequence[VideoSource] | None) -> tuple[VideoSource, ...]:
    """Return one, several or no videos as a tuple. A sequence of frames is one video; any other one is of videos."""
    if video is None:
        return ()
    if isinstance(video, Clip) or is_array(video) or is_media(video):
        return (cast("VideoSource", video),)
    items = tuple(cast("Sequence[VideoSource]", video))
    if any(map(is_frame, items)):
        return (cast("VideoSource", _check_frames(items)),)
    return items


def _check_frames(frames: Any) -> Any:
    """Return `frames` if they are the frames of one video."""
    if getattr(frames, "ndim", 1) == 0:
        to_pixels(frames, source="frames")  # says what it should be
    if not len(frames):
        raise NoFrames("frames: there are none: give at least one", source="frames")
    if is_array(frames):
        return frames
    for position, frame in enumerate(frames):
        if not is_frame(frame):
            kinds = f"element {position} of {len(frames)} is no frame but {_kind(frame)}"
            raise MediaError(f"expected one video, a sequence of frames, but {kinds}: give videos to ask(video=[...])")
    return frames


def _kind(source: object) -> str:
    return f"a {type(source).__name__}" + (f" of {source.ndim} dimensions" if isinstance(source, np.ndarray) else "")


def _sample(
    media: MediaFile, *, fit: Callable[[NDArray[Any]], NDArray[Any]], window: Window, resizer: ThreadPoolExecutor
) -> SampledVideo[Future[NDArray[Any]]]:
    """Return the sampled video; `resizer` makes its pictures by `fit`, uint8 [size, size, 3]."""
    # PyAV loads all of FFmpeg: text, images and clips do without.
    from .animations import is_webp, sample_animation
    from .decoding import sample_video, to_rgb

    def resize(pixels: Callable[[], NDArray[Any]], width: int, height: int) -> Future[NDArray[Any]]:
        media.budget.check_picture(width, height)
        return resizer.submit(lambda: fit(pixels()))

    def resize_image(image: Image.Image) -> Future[NDArray[Any]]:
        return resize(lambda: np.asarray(image), image.width, image.height)

    def resize_frame(frame: VideoFrame, orientation: Orientation) -> Future[NDArray[Any]]:
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
