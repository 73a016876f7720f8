"""A video stream in its container: packets, seeks, decoded frames. FFmpeg's errors become this package's here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from .errors import UnreadableMedia, VideoLlavaError
from .limits import Budget
from .sources import MediaFile
from .streams import StreamChoice, demux
from .unsupported import check_encryption

NO_TIME = -(2**63)  # FFmpeg's AV_NOPTS_VALUE

# Only formats that hold the media themselves: a playlist can name other files of this machine, and FFmpeg recognises
# one by its content whatever its name.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,asf,gif,apng,ivf,h264,hevc,m4v,obu,"
    "mxf,nut,mp3,flac,wav,aac"
)

# FFmpeg's decoder of H.264 begins at a frame that needs no other, whatever the flags of the packets say; every frame of
# CineForm is one.
_BEGINS_WELL = ("h264", "cfhd")
# Frames of type I may be followed by frames that refer to what was before them.
_MARKS_KEYS = ("hevc", "vvc")

# A header of a file that was written to a pipe has this many frames or more: the real number was not known.
_NO_PROMISE = 2**30

# FFmpeg's search in an index takes time quadratic in the number of frames that an edit list cuts off, and cannot be
# interrupted: 0.2 s for 30,000, minutes for a million.
_MAX_CUT_OFF = 30_000
_NUM_INDEX_SAMPLES = 1_000

# Tags need not be UTF-8. PyAV before 19 raises without this option; PyAV 19 has no such option and never raises.
_METADATA: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


@dataclass(frozen=True)
class KeyFrame:
    """A frame that decodes without others; times in units of the stream's time base."""

    pts: int
    dts: int


@dataclass(frozen=True)
class _Seeking:
    """`by`: the timestamp that the format seeks by; the other lands too late. `known_by`: the one that identifies a
    packet.
    """

    by: str
    known_by: str


# All other formats are decoded from the start.
_SEEKING = {
    "mov,mp4,m4a,3gp,3g2,mj2": _Seeking(by="pts", known_by="dts"),
    "matroska,webm": _Seeking(by="pts", known_by="pts"),
    "avi": _Seeking(by="dts", known_by="dts"),
    "mpegts": _Seeking(by="dts", known_by="pts"),
    "mpeg": _Seeking(by="dts", known_by="pts"),
    "flv": _Seeking(by="dts", known_by="pts"),
    "asf": _Seeking(by="pts", known_by="pts"),
    "ogg": _Seeking(by="pts", known_by="pts"),
    "mxf": _Seeking(by="dts", known_by="pts"),
    "nut": _Seeking(by="pts", known_by="pts"),
}


class Video:
    """One video stream, open.

    Attributes:
        name: For messages.
        budget: The limits of the file.
        stream: PyAV's stream.
        format: FFmpeg's name of the container, such as "matroska,webm".
        is_at_start: Whether no packet has been read.
        broke_off: Whether reading stopped with an error.
        choice: How the stream was chosen.
        num_empty: How many packets without data were read.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, media: MediaFile, choice: StreamChoice) -> None:
        self.name: str = media.name
        self.budget: Budget = media.budget
        self.stream = stream
        self.format: str = container.format.name
        self.is_at_start: bool = True
        self.broke_off: bool = False
        self.choice = choice
        self.num_empty: int = 0
        self._container = container

    @property
    def time_base(self) -> float:
        """Seconds of one unit of the stream's times."""
        return float(self.stream.time_base or 0)

    @property
    def promised_seconds(self) -> float:
        """When the video ends by its DURATION tag (hours:minutes:seconds) in Matroska and WebM; 0 without."""
        try:
            hours, minutes, seconds = self.stream.metadata.get("DURATION", "").split(":")
            return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        except ValueError:
            return 0.0

    @property
    def can_seek(self) -> bool:
        """Whether key frames of this format are found by seeking."""
        # A palette comes with the first packet only.
        has_palette = self.stream.codec_context.pix_fmt == "pal8"
        return self.format in _SEEKING and not has_palette and self._num_cut_off < _MAX_CUT_OFF

    @cached_property
    def _num_cut_off(self) -> float:
        """About how many frames of the index an edit list cuts off."""
        entries = self.stream.index_entries
        step = max(1, len(entries) // _NUM_INDEX_SAMPLES)
        return sum(entries[position].is_discard for position in range(0, len(entries), step)) * step

    @property
    def num_promised(self) -> int:
        """How many frames the file announces; 0 if it does not."""
        num_frames = self.stream.frames
        if self.format.startswith("mov"):
            # An edit list takes frames out of the index.
            num_frames = min(num_frames, len(self.stream.index_entries))
        return num_frames if num_frames < _NO_PROMISE else 0

    def stands_alone(self, frame: VideoFrame) -> bool:
        """Whether the decoder says that `frame` needs no other. Some say nothing, and some files flag each packet."""
        codec = self.stream.codec_context
        if frame.key_frame or codec.codec.intra_only or codec.name in _BEGINS_WELL:
            return True
        return frame.pict_type == PictureType.I and codec.name not in _MARKS_KEYS

    @property
    def is_interlaced(self) -> bool:
        """Whether the stream says that a frame is made of two fields."""
        return self.stream.codec_context.field_order > 1  # 0: unknown, 1: progressive

    def packets(self) -> Iterator[Packet[VideoStream]]:
        """Yield the packets from here to the end, except those without data."""
        self.is_at_start = False
        try:
            for packet in demux(self._container, self.stream):
                self.budget.check_time()
                # An empty packet repeats a frame (Theora), and decoders refuse it; the last packet is empty too.
                if packet.size:
                    yield packet
                elif packet.dts is not None:
                    self.num_empty += 1
        except av.error.FFmpegError:
            self.budget.check_time()
            self.broke_off = True

    def seek(self, offset: int, *, any_frame: bool = False) -> bool:
        """Go to `offset`, in units of the stream's time base; False if that fails."""
        try:
            self._container.seek(offset, stream=self.stream, any_frame=any_frame)
        except av.error.FFmpegError:
            self.budget.check_time()
            return False
        return True

    def packets_from(self, key: KeyFrame, *, seek_to: KeyFrame) -> Iterator[Packet[VideoStream]]:
        """Seek to the key frame `seek_to`, and yield the packets from `key` on; none if it is not found.

        Decoding must begin at `key` itself: from another packet, frames have the right time and broken pixels.
        """
        seeking = _SEEKING[self.format]
        offset, wanted = getattr(seek_to, seeking.by), getattr(key, seeking.known_by)
        if NO_TIME in (offset, wanted) or not self.seek(offset):
            return
        is_reached = False
        for packet in self.packets():
            time = getattr(packet, seeking.known_by)
            is_reached = is_reached or (packet.is_keyframe and time == wanted)
            if is_reached:
                yield packet
            elif packet.is_keyframe and time is not None and time > wanted:
                return

    def skip_unreferenced(self, skip: bool) -> None:
        """Set whether the decoder may skip frames that no other refers to."""
        self.stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"

    def decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Return the frames that `packet` completes; None ends the stream and returns the rest."""
        self.budget.check_time()
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            # One damaged packet does not end the video; missing frames are found at the end.
            return []
        for frame in frames:
            # The last frames do not get it from a packet.
            frame.time_base = self.stream.time_base
        return frames


@contextmanager
def open_video(media: MediaFile, choice: StreamChoice | None = None) -> Iterator[Video]:
    """Open the video stream of `media`, the same one whenever `choice` is the same."""
    choice = choice or StreamChoice()
    try:
        limits = media.budget.limits
        with media.opened() as file:
            check_encryption(file, source=media.name)
        with _open_chosen(media, choice) as container:
            stream = next(stream for stream in container.streams.video if stream.index == choice.index)
            context = stream.codec_context
            if context is None:
                raise UnreadableMedia(
                    f"{media.name}: its video codec is unknown: convert it to H.264", source=media.name
                )
            for other in container.streams:
                if other is not stream:
                    other.discard = Discard.all
            media.budget.check_picture(context.width, context.height)
            # The size may change inside the stream.
            context.options = {"max_pixels": str(limits.max_pixels)} if limits.max_pixels else {}
            # Frame threads restart at every seek, which costs more than they save.
            context.thread_type = "NONE"
            yield Video(container, stream, media, choice)
    except VideoLlavaError:
        raise
    except (av.error.FFmpegError, OSError) as exc:
        media.budget.check_time()
        reason = exc.strerror or str(exc)
        if b"ftyp" in media.head(12):
            reason += "; an MP4 that was cut off has lost its index"
        raise UnreadableMedia(
            f"{media.name}: cannot be read as a video ({reason}): give an MP4, MOV, MKV, WebM, AVI, MPEG or GIF file",
            source=media.name,
        ) from exc


def _open(media: MediaFile) -> InputContainer:
    options = {"format_whitelist": _FORMATS, "protocol_whitelist": "file"}
    if media.budget.limits.max_pixels:
        # Opening decodes a first picture.
        options["max_pixels"] = str(media.budget.limits.max_pixels)
    handle = media.rewound()
    # With an explicit protocol, a colon in the file's name is not taken for one.
    file = f"file:{handle}" if isinstance(handle, Path) else handle
    return av.open(file, "r", options=options, timeout=media.budget.remaining_seconds, **_METADATA)


def _open_chosen(media: MediaFile, choice: StreamChoice) -> InputContainer:
    """Open a file, and choose its video stream if that has not been done."""
    container = _open(media)
    try:
        streams = choice.candidates(container, media.name)
        if len(streams) == 1:
            choice.index = streams[0].index
            return container
        choice.choose(container, streams, media.budget)
    except BaseException:
        container.close()
        raise
    container.close()
    return _open(media)
