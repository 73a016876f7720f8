"""Eight frames out of a video file, exactly the right ones, without decoding the rest.

1. Read every packet without decoding it: how many frames there are, when each is shown, where one can start.
2. Choose the frames by their place in presentation order (`sampling`).
3. Seek to the last key frame at or before each and decode from there; check that the seek did land there, and
   that a frame with exactly the wanted time came out.
4. Wherever that is not possible, decode from the start.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .errors import NoFrames, NoVideoStream, UnreadableMedia
from .sampling import sample_indices
from .timeline import KeyFrame, Timeline

# A playlist can name other files of this machine, and FFmpeg knows one by its content whatever its name: only
# formats that hold the video itself, and only from the file that was given.
_OPEN_OPTIONS = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,ogg,flv,asf,gif",
    "protocol_whitelist": "file",
}

# The timestamp that a format's own seek goes by; the other one lands a key frame too late or too early.
# Formats that are not here are decoded from the start.
_SEEK_BY = {"mov,mp4,m4a,3gp,3g2,mj2": "pts", "matroska,webm": "pts", "avi": "dts", "mpegts": "dts"}


@dataclass(frozen=True)
class SampledFrame:
    """One decoded frame, in the file's own size and colours.

    Attributes:
        index: Its place in presentation order, from 0.
        pts_seconds: When it is shown, by the file's own clock; None where the file does not say.
        frame: PyAV's frame.
    """

    index: int
    pts_seconds: float | None
    frame: VideoFrame

    def to_rgb(self) -> np.ndarray:
        """Return the pixels, uint8 [height, width, 3], turned upright where the file says how it was filmed."""
        pixels = self.frame.to_ndarray(format="rgb24")
        return np.rot90(pixels, k=self.frame.rotation // 90 % 4)


def sample_video(path: Path) -> tuple[SampledFrame, ...]:
    """Decode the eight frames of `path` that the model sees (`sampling.sample_indices`).

    Raises:
        UnreadableMedia: Not a video file, or one that breaks off before its first frame.
        NoVideoStream: A media file without a video.
        NoFrames: The video is empty, or a frame that is needed does not decode.
    """
    with _open(path) as (container, stream):
        timeline = Timeline.read(container, stream)
        if timeline.num_frames == 0:
            raise NoFrames(f"{path}: the video stream holds no frames: give another video", source=str(path))
        indices = sample_indices(timeline.num_frames)
        frames = _decode_by_seeking(container, stream, timeline, indices)
    if frames.keys() != set(indices):
        with _open(path) as (container, stream):
            frames = _decode_from_start(container, stream, timeline, indices)
    missing = sorted(set(indices) - frames.keys())
    if missing:
        raise NoFrames(
            f"{path}: frames {missing} of {timeline.num_frames} do not decode, the file is damaged or incomplete: "
            "give another copy of it",
            source=str(path),
        )
    return tuple(SampledFrame(index, frames[index].time, frames[index]) for index in indices)


@contextmanager
def _open(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the file and its video; the border at which FFmpeg's errors become ours."""
    try:
        with av.open(str(path), options=_OPEN_OPTIONS) as container:
            yield container, _video_stream(container, path)
    except av.error.FFmpegError as exc:
        raise UnreadableMedia(
            f"{path}: cannot be read as a video ({exc.strerror}): give an MP4, MOV, MKV, WebM, AVI, MPEG or GIF file",
            source=str(path),
        ) from exc


def _video_stream(container: InputContainer, path: Path) -> VideoStream:
    # The cover picture of a song is a video stream too.
    streams = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
    if not streams:
        raise NoVideoStream(f"{path}: holds no video stream: give a video", source=str(path))
    # Frame threads start anew at every seek, which costs more than they win.
    streams[0].thread_type = "NONE"
    return streams[0]


def _decode_by_seeking(
    container: InputContainer, stream: VideoStream, timeline: Timeline, indices: tuple[int, ...]
) -> dict[int, VideoFrame]:
    """Return {index: frame} of the frames that seeking finds with certainty."""
    groups = timeline.by_key(indices) if container.format.name in _SEEK_BY else {}
    wanted = frozenset().union(*groups.values())
    frames: dict[int, VideoFrame] = {}
    for key, group in groups.items():
        offset = getattr(key, _SEEK_BY[container.format.name])
        if offset is None:
            break
        container.seek(offset, stream=stream)
        for pts, frame in _decode_from_key(container, stream, key, wanted=wanted, last=max(group)):
            frames[timeline.index_of_pts[pts]] = frame
    return frames


def _decode_from_key(
    container: InputContainer, stream: VideoStream, key: KeyFrame, *, wanted: frozenset[int], last: int
) -> Iterator[tuple[int, VideoFrame]]:
    """Yield the frames whose time is in `wanted`, with it, from where a seek to `key` landed to the time `last`."""
    packets = _packets(container, stream)
    first = next(packets, None)
    # The right time alone proves nothing: a frame decoded from the wrong start carries it too, with broken pixels.
    if first is None or not first.is_keyframe or first.pts is None or first.pts > key.pts:
        return
    for packet in chain((first,), packets):
        # Passes over frames that no other is built from. All wanted times count: the decoder reads ahead.
        stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
        for frame in _decode(packet):
            pts = frame.pts
            if pts is not None and pts in wanted and key.pts <= pts <= last:
                yield pts, frame
            if pts is not None and pts >= last:
                return


def _decode_from_start(
    container: InputContainer, stream: VideoStream, timeline: Timeline, indices: tuple[int, ...]
) -> dict[int, VideoFrame]:
    """Return {index: frame} of the wanted frames that decode, told apart by their times or else by counting."""
    wanted = set(indices)
    frames: dict[int, VideoFrame] = {}
    decoded = (frame for packet in _packets(container, stream) for frame in _decode(packet))
    for position, frame in enumerate(decoded):
        index = position
        if timeline.index_of_pts:
            index = -1 if frame.pts is None else timeline.index_of_pts.get(frame.pts, -1)
        if index in wanted:
            frames[index] = frame
        if frames.keys() == wanted:
            break
    return frames


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    # An empty packet with a time repeats a frame (Theora), and decoders refuse it; the one without ends the stream.
    return (packet for packet in container.demux(stream) if packet.size or packet.dts is None)


def _decode(packet: Packet[VideoStream]) -> list[VideoFrame]:
    try:
        return packet.decode()
    except av.error.FFmpegError:
        # One damaged packet does not end the video: whether a wanted frame is missing is seen at the end.
        return []
