"""Which of the video streams of a file is the video, as players choose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream

from .errors import NoVideoStream, OptionError, UnreadableMedia
from .limits import Budget

# Covers, thumbnails, tiles of a picture.
_BESIDE = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image | Disposition.dependent
_MANY_FRAMES = 5  # a stream of fewer is no film if another has so many, as in FFmpeg's own choice
_NUM_NAMED = 5


@dataclass
class StreamChoice:
    """The video stream of one file, chosen when it is first opened.

    Attributes:
        index: Its number among all streams of the file, as ffprobe shows it; None: not chosen yet.
        warning: Which other streams there are, if nobody asked for this one.
    """

    index: int | None = None
    warning: str = ""

    def candidates(self, container: InputContainer, name: str) -> list[VideoStream]:
        """Return the streams to choose among: one if it is clear."""
        streams = list(container.streams.video)
        if self.index is not None:
            chosen = [stream for stream in streams if stream.index == self.index]
            if not chosen:
                known = ", ".join(str(stream.index) for stream in streams) or "none"
                raise OptionError(f"video_stream={self.index}: the video streams of {name} are {known}")
            return chosen
        films = [stream for stream in streams if not _is_picture(stream) and not stream.disposition & _BESIDE]
        films = films or [s for s in streams if not _is_picture(s) and not s.disposition & Disposition.attached_pic]
        if not films:
            if any(map(_is_picture, streams)):
                raise UnreadableMedia(f"{name}: holds pictures, not a video: give it as an image", source=name)
            raise NoVideoStream(f"{name}: holds no video stream: give a video", source=name)
        return films

    def choose(self, container: InputContainer, streams: list[VideoStream], budget: Budget) -> None:
        """Choose by the number of frames, what the file says is its default, and the size; may read the whole file."""
        num_frames = _count_packets(container, streams, budget)

        def rank(stream: VideoStream) -> tuple[bool, int, bool, int, int]:
            count, context = num_frames[stream.index], stream.codec_context
            is_default = bool(stream.disposition & Disposition.default)
            pixels = context.width * context.height if context else 0
            return context is not None, min(count, _MANY_FRAMES), is_default, pixels, count

        chosen = max(streams, key=rank)
        others = [stream for stream in streams if stream is not chosen]
        names = ", ".join(f"{_name(s)} with {num_frames[s.index]} frames" for s in islice(others, _NUM_NAMED))
        self.index = chosen.index
        self.warning = f"streams: the video is {_name(chosen)}; video_stream chooses another of {len(others)}: {names}"


def demux(container: InputContainer, streams: VideoStream | list[VideoStream]) -> Iterator[Packet[Any]]:
    """Yield the packets of these streams to the end of the file."""
    # PyAV 18.1 raises it at the end of a file in which a stream appeared while it was read, as in MPEG-TS.
    with suppress(IndexError):
        yield from container.demux(streams)


def _is_picture(stream: VideoStream) -> bool:
    """Whether FFmpeg made the stream of a picture of HEIF or AVIF, or of one of its tiles: it has no duration."""
    is_mov = stream.container.format.name.startswith("mov")
    return is_mov and stream.duration is None and stream.frames == 1 and stream.time_base == 1


def _count_packets(container: InputContainer, streams: list[VideoStream], budget: Budget) -> Counter[int]:
    counts = Counter({stream.index: len(stream.index_entries) for stream in streams})
    # MP4 alone has its index when it is opened.
    if container.format.name.startswith("mov") and all(counts.values()):
        return counts
    counts = Counter[int]()
    try:
        for packet in demux(container, streams):
            budget.check_time()
            counts[packet.stream.index] += bool(packet.size)
    except FFmpegError:
        budget.check_time()
    return counts


def _name(stream: VideoStream) -> str:
    context = stream.codec_context
    return f"{stream.index} ({context.name} {context.width}x{context.height})" if context else f"{stream.index}"
