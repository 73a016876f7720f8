"""Eight frames out of a video file, exactly the right ones, without decoding the rest.

1. Learn how many frames there are, when each is shown and where one can start: from the file's index, or from its
   packets, read without decoding (`timeline`).
2. Choose the frames by their place in presentation order (`sampling`).
3. Seek to the last key frame at or before each and decode from there; check that decoding began at that very key
   frame, and that a frame with exactly the wanted time came out.
4. Where that does not succeed with the index, do it again with the packets; else decode from the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, groupby
from typing import Any, Generic, TypeVar

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .container import NO_TIME, Video, open_video
from .errors import NoFrames, UnreadableMedia
from .limits import Deadline, MediaLimits
from .sampling import sample_indices
from .sources import Media
from .timeline import Timeline
from .window import Window

T = TypeVar("T")

# How many key frames earlier to begin decoding, and to seek to. Some seeks land too late; a picture that is
# refreshed piece by piece is whole only a key frame later; a key frame can be shown later than the index says.
_ATTEMPTS = ((0, 0), (0, 1), (1, 1), (1, 2), (2, 3))


@dataclass(frozen=True)
class SampledFrame(Generic[T]):
    """One decoded frame.

    Attributes:
        index: Its place in presentation order, from 0.
        pts_seconds: When it is shown, by the file's own clock; None where the file does not say.
        picture: What was made of it.
    """

    index: int
    pts_seconds: float | None
    picture: T


@dataclass(frozen=True)
class SampledVideo(Generic[T]):
    """The eight frames of a video that the model sees, and what there is to say of it.

    Attributes:
        frames: In the order of `sample_indices`; a short video has some of them more than once.
        num_frames: How many frames the video has.
        duration_seconds: From the first frame to the end of the last; None where frames carry no times.
        warnings: What the caller should know, a sentence each.
    """

    frames: tuple[SampledFrame[T], ...]
    num_frames: int
    duration_seconds: float | None
    warnings: tuple[str, ...] = ()


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
            search = _Search.plan(video, timeline, window or Window(), limits=limits, convert=convert)
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
            search = _Search.plan(video, timeline, window, limits=limits, convert=convert)
            num_decoded = search.from_start()
        if search.is_disordered:
            timeline = replace(timeline, times=timeline.times[:0])
        # Where frames are told apart by counting, a full decode decides how many there are.
        elif len(timeline.times) or num_decoded == timeline.num_frames:
            return search.result()
        else:
            timeline = replace(timeline, num_frames=num_decoded)


@dataclass
class _Search(Generic[T]):
    """The frames that are wanted of a video, and those found so far."""

    video: Video
    timeline: Timeline
    indices: tuple[int, ...]
    convert: Callable[[VideoFrame], T]
    duration_seconds: float | None
    found: dict[int, SampledFrame[T]] = field(default_factory=dict)
    is_disordered: bool = False
    replaced: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)

    @classmethod
    def plan(
        cls,
        video: Video,
        timeline: Timeline,
        window: Window,
        *,
        limits: MediaLimits,
        convert: Callable[[VideoFrame], T],
    ) -> _Search[T]:
        """Choose the frames.

        Raises:
            NoFrames: There are none to choose from.
            MediaTooLarge: The video is too long.
        """
        if timeline.num_frames == 0:
            raise NoFrames(f"{video.name}: the video stream holds no frames: give another video", source=video.name)
        duration = timeline.duration_seconds(video.time_base)
        limits.check_duration(duration, source=video.name)
        seconds = timeline.times * video.time_base
        chosen = window.select(timeline.num_frames, seconds, source=video.name)
        indices = tuple(chosen[index] for index in sample_indices(len(chosen)))
        return cls(video, timeline, indices, convert, duration)

    @property
    def is_complete(self) -> bool:
        """Whether all are found."""
        return self.found.keys() == set(self.indices)

    def by_seeking(self) -> None:
        """Find the frames that can be found so with certainty; give up at the first that cannot."""
        times = self.timeline.times
        if not (self.video.can_seek and len(times)):
            return
        index_of = {int(times[index]): index for index in self.indices}
        for key, group in groupby(sorted(index_of), key=self.timeline.key_before):
            wanted = frozenset(group)
            if key < 0 or not self._decode_group(key, {pts: index_of[pts] for pts in wanted}):
                return

    def _decode_group(self, key: int, index_of: dict[int, int]) -> bool:
        """Find the frames that lead back to the key frame at position `key`: {presentation time: index}."""
        for start, seek_to in _ATTEMPTS:
            packets = self.video.packets_from(
                self.timeline.key_frame(max(0, key - start)), seek_to=self.timeline.key_frame(max(0, key - seek_to))
            )
            for frame in self._in_order(self._decode(packets, wanted=frozenset(index_of))):
                if frame.pts in index_of:
                    self._keep(index_of[frame.pts], frame)
            if self.found.keys() >= set(index_of.values()):
                return True
        return False

    def _decode(self, packets: Iterator[Packet[VideoStream]], *, wanted: frozenset[int]) -> Iterator[VideoFrame]:
        """Decode and yield no more than leads to the frames with the times in `wanted`."""
        first = next(packets, None)
        # An open group of pictures begins with some that only the group before completes.
        if first is None or first.pts is None or first.pts > min(wanted):
            return
        is_interlaced = self.video.is_interlaced
        num_left = len(wanted)
        for packet in chain((first,), packets):
            if not packet.is_discard and self.timeline.contradicts(packet.pts):
                return
            is_last = num_left == 0
            is_wanted = packet.pts in wanted
            # Passes over frames that no other is built from. The decoder reads ahead, so all that are wanted count.
            self.video.skip_unreferenced(not is_wanted and not is_interlaced)
            yield from self.video.decode(packet)
            num_left -= is_wanted
            # Two fields can come in two packets.
            if is_last or (num_left == 0 and not is_interlaced):
                break
        yield from self.video.decode(None)

    def _in_order(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield frames as long as their times ascend: others are wrong, and so tell no frame from another."""
        last = NO_TIME
        for frame in frames:
            if frame.pts is None or frame.pts <= last:
                self.is_disordered = True
                return
            last = frame.pts
            yield frame

    def from_start(self) -> int:
        """Find the frames by decoding all; return how many were decoded.

        A frame that does not decode is replaced by the one before it, which a player would go on showing.
        """
        times, left = self.timeline.times, sorted(set(self.indices), reverse=True)
        before: VideoFrame | None = None
        num_decoded = 0
        for at, frame in self._decode_all():
            num_decoded += 1
            while left and at >= (wanted := int(times[left[-1]]) if len(times) else left[-1]):
                is_missing = at != wanted
                self._keep(left.pop(), before if is_missing and before else frame, is_replacement=is_missing)
            before = frame
            if not left and len(times):
                break
        while left and before is not None:
            self._keep(left.pop(), before, is_replacement=True)
        return num_decoded

    def _decode_all(self) -> Iterator[tuple[int, VideoFrame]]:
        """Yield every frame with what tells it from the others: its time, or else its number."""
        packets: Iterable[Packet[VideoStream] | None] = chain(self.video.packets(), (None,))
        frames = (frame for packet in packets for frame in self.video.decode(packet))
        if not len(self.timeline.times):
            return enumerate(frames)
        return ((frame.pts, frame) for frame in self._in_order(frames) if frame.pts is not None)

    def _keep(self, index: int, frame: VideoFrame, *, is_replacement: bool = False) -> None:
        if is_replacement:
            self.replaced.append(index)
        if frame.is_corrupt:
            self.damaged.append(index)
        self.found[index] = SampledFrame(index, frame.time, self.convert(frame))

    def result(self) -> SampledVideo[T]:
        """Return what was found.

        Raises:
            NoFrames: More than half of the frames do not decode.
        """
        num_wanted = len(set(self.indices))
        if not self.is_complete or 2 * len(self.replaced) > num_wanted:
            missing = sorted({*self.replaced, *(set(self.indices) - self.found.keys())})
            raise NoFrames(
                f"{self.video.name}: frames {missing} of {self.timeline.num_frames} do not decode, the file is damaged "
                "or incomplete: give another copy of it",
                source=self.video.name,
            )
        frames = tuple(self.found[index] for index in self.indices)
        return SampledVideo(frames, self.timeline.num_frames, self.duration_seconds, tuple(self._warnings()))

    @property
    def _end_seconds(self) -> float:
        return float(self.timeline.times[-1]) * self.video.time_base if len(self.timeline.times) else math.inf

    def _warnings(self) -> Iterator[str]:
        num_in_file = self.timeline.num_frames + self.timeline.num_unshown
        if self.video.stream.frames > num_in_file:
            yield f"truncated: the file promises {self.video.stream.frames} frames and holds {num_in_file}"
        elif self._end_seconds < 0.9 * self.video.promised_seconds - 1:
            promised = self.video.promised_seconds
            yield f"truncated: the file promises {promised:.1f} s and ends after {self._end_seconds:.1f} s"
        elif self.video.broke_off:
            yield f"truncated: reading broke off after {num_in_file} frames"
        if self.replaced:
            yield f"damaged: frames {sorted(self.replaced)} do not decode, the ones before them take their places"
        if self.damaged:
            yield f"damaged: parts of frames {sorted(set(self.damaged))} are guessed"
