"""The eight frames of a video file that the model sees, without decoding the others.

1. Read how many frames there are, when each is shown and which are key frames: from the file's index, or from its
   packets without decoding (`timeline`).
2. Choose the frames by their place in presentation order (`sampling`).
3. Seek to the last key frame at or before each and decode from there; check that decoding began at that key frame, and
   that a frame with exactly the wanted time was decoded (`search`).
4. If that fails with the index, repeat it with the packets; if it fails again, decode from the start.
"""

from dataclasses import replace
from typing import Any, TypeVar

from av.error import FFmpegError
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from .container import Video, open_video
from .errors import UnreadableMedia
from .orientation import Orientation
from .sampling import SampledVideo
from .search import Convert, Search
from .sources import MediaFile
from .streams import StreamChoice
from .timeline import Timeline
from .window import Window

T = TypeVar("T")


def to_rgb(frame: VideoFrame, orientation: Orientation, *, source: str = "video") -> NDArray[Any]:
    """Return the pixels, uint8 [height, width, 3], upright.

    As in the reference: pixels as stored whatever their aspect ratio, with the file's colour matrix, without tone
    mapping, alpha channel or deinterlacing.
    """
    try:
        pixels = frame.to_ndarray(format="rgb24")
    except (FFmpegError, ValueError) as exc:
        message = f"{source}: pictures of {frame.format.name} cannot be converted ({exc}): convert the video to H.264"
        raise UnreadableMedia(message, source=source) from exc
    return orientation.apply(pixels)


def sample_video(media: MediaFile, *, convert: Convert[T], window: Window | None = None) -> SampledVideo[T]:
    """Decode the eight frames of `media` that the model sees (`sampling.sample_indices`).

    Args:
        media: The file.
        convert: Called with each of them as soon as it is decoded, and with the orientation of the first.
        window: Which frames, and of which stream.
    """
    window = window or Window()
    choice = StreamChoice(window.video_stream)
    timeline = None
    for look in (_first_look, Timeline.from_packets):
        with open_video(media, choice) as video:
            if (timeline := look(video)) is None:
                continue
            search = Search.plan(video, timeline, window, convert)
            search.by_seeking()
            if search.is_complete:
                return search.result()
        if not timeline.is_predicted:
            break
    assert timeline is not None
    return _sample_from_start(media, choice, timeline, window, convert)


def _first_look(video: Video) -> Timeline | None:
    return Timeline.from_index(video) or (Timeline.from_packets(video) if video.is_at_start else None)


def _sample_from_start(
    media: MediaFile, choice: StreamChoice, timeline: Timeline, window: Window, convert: Convert[T]
) -> SampledVideo[T]:
    while True:
        with open_video(media, choice) as video:
            search = Search.plan(video, timeline, window, convert)
            num_decoded = search.from_start()
            # If frames are identified by their number, a full decode decides how many there are.
            is_settled = len(timeline.times) or num_decoded == timeline.num_frames
            if is_settled and not search.is_disordered:
                return search.result()
        if search.is_disordered:
            timeline = replace(timeline, times=timeline.times[:0])
        else:
            timeline = replace(timeline, num_frames=num_decoded)
