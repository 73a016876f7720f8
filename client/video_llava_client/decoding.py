"""Eight frames out of a video file, exactly the right ones, without decoding the rest.

1. Learn how many frames there are, when each is shown and where one can start: from the file's index, or from its
   packets, read without decoding (`timeline`).
2. Choose the frames by their place in presentation order (`sampling`).
3. Seek to the last key frame at or before each and decode from there; check that decoding began at that very key
   frame, and that a frame with exactly the wanted time came out.
4. Where that does not succeed with the index, do it again with the packets; else decode from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
from av.error import FFmpegError
from av.video.frame import VideoFrame

from .container import Video, open_video
from .errors import UnreadableMedia
from .limits import Deadline, MediaLimits
from .sampling import SampledVideo
from .search import Search
from .sources import Media
from .timeline import Timeline
from .window import Window

T = TypeVar("T")


def to_rgb(frame: VideoFrame, *, source: str = "video") -> np.ndarray:
    """Return the pixels, uint8 [height, width, 3], turned upright where the file says how it was filmed.

    As the reference converts them: in the file's stored pixels whatever their aspect ratio, with the colour matrix
    that it names, without tone mapping, without the alpha channel, without deinterlacing.

    Raises:
        UnreadableMedia: The colours, damaged perhaps, cannot be converted.
    """
    try:
        pixels = frame.to_ndarray(format="rgb24")
    except (FFmpegError, ValueError) as exc:
        message = f"{source}: pictures of {frame.format.name} cannot be converted ({exc}): convert the video to H.264"
        raise UnreadableMedia(message, source=source) from exc
    return np.rot90(pixels, k=frame.rotation // 90 % 4)


def sample_video(
    media: Media,
    *,
    convert: Callable[[VideoFrame], T],
    window: Window | None = None,
    limits: MediaLimits | None = None,
    deadline: Deadline | None = None,
) -> SampledVideo[T]:
    """Decode the eight frames of `media` that the model sees (`sampling.sample_indices`).

    Args:
        media: The file.
        convert: Called with each of them as soon as it is decoded.
        window: Sample only this part.
        limits: None: the default ones.
        deadline: None: `limits` say.

    Raises:
        UnreadableMedia: Not a video file, or one that breaks off before its first frame.
        NoVideoStream: A media file without a video.
        NoFrames: The video or the window is empty, or more than half of the frames do not decode.
        MediaTooLarge, MediaTimedOut: It is over `limits`.
    """
    limits = limits or MediaLimits()
    deadline = deadline or Deadline(limits.timeout_seconds, source=media.name)
    opened = partial(open_video, media, limits=limits, deadline=deadline)
    timeline = None
    for look in (_first_look, Timeline.from_packets):
        with opened() as video:
            if (timeline := look(video)) is None:
                continue
            search = Search.plan(video, timeline, window or Window(), limits=limits, convert=convert)
            search.by_seeking()
            if search.is_complete:
                return search.result()
        if not timeline.is_predicted:
            break
    assert timeline is not None
    return _sample_from_start(opened, timeline, window or Window(), limits=limits, convert=convert)


def _first_look(video: Video) -> Timeline | None:
    return Timeline.from_index(video) or (Timeline.from_packets(video) if video.is_at_start else None)


def _sample_from_start(
    opened: Callable[[], Any], timeline: Timeline, window: Window, *, limits: MediaLimits, convert: Callable[..., T]
) -> SampledVideo[T]:
    while True:
        with opened() as video:
            search = Search.plan(video, timeline, window, limits=limits, convert=convert)
            num_decoded = search.from_start()
            # Where frames are told apart by counting, a full decode decides how many there are.
            is_settled = len(timeline.times) or num_decoded == timeline.num_frames
            if is_settled and not search.is_disordered:
                return search.result()
        if search.is_disordered:
            timeline = replace(timeline, times=timeline.times[:0])
        else:
            timeline = replace(timeline, num_frames=num_decoded)
