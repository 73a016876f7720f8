"""The search for the wanted frames in one open video: by seeking, or from the start."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Generic, TypeVar

from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .container import NO_TIME, Video
from .errors import NoFrames
from .orientation import Orientation
from .sampling import SampledFrame, SampledVideo
from .timeline import Timeline
from .window import Window

T = TypeVar("T")
# Called with a frame and the orientation of the video.
Convert = Callable[[VideoFrame, Orientation], T]

# How many key frames earlier to begin decoding, and to seek to. Some seeks land too late; with intra refresh a picture
# is complete only one key frame later; a key frame can be shown later than the index says.
_ATTEMPTS = ((0, 0), (0, 1), (1, 1), (1, 2), (2, 3))

_MAX_REST_DEGREES = 1.0  # what a file may ask for beside quarter turns before a warning says so


@dataclass
class Search(Generic[T]):
    """The wanted frames of a video, and those found so far."""

    video: Video
    timeline: Timeline
    indices: tuple[int, ...]
    convert: Convert[T]
    duration_seconds: float | None
    found: dict[int, SampledFrame[T]] = field(default_factory=dict)
    orientation: Orientation | None = None
    is_disordered: bool = False
    is_contradicted: bool = False
    replaced: list[int] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)

    @classmethod
    def plan(cls, video: Video, timeline: Timeline, window: Window, convert: Convert[T]) -> Search[T]:
        """Choose the frames."""
        if timeline.num_frames == 0:
            raise NoFrames(f"{video.name}: the video stream holds no frames: give another video", source=video.name)
        duration = timeline.duration_seconds(video.time_base)
        video.budget.check_duration(duration)
        seconds = timeline.times * video.time_base
        indices = window.choose(timeline.num_frames, seconds, source=video.name)
        return cls(video, timeline, indices, convert, duration)

    @property
    def is_complete(self) -> bool:
        """Whether all are found."""
        return self.found.keys() == set(self.indices) and not self.is_contradicted

    def by_seeking(self) -> None:
        """Find frames by seeking; stop at the first that is not found with certainty."""
        times = self.timeline.times
        if not (self.video.can_seek and len(times) and len(self.timeline.key_pts)):
            return
        # The first frame says how all are turned, and whether the times are right.
        index_of = {int(times[index]): index for index in (0, *self.indices)}
        for key, group in groupby(sorted(index_of), key=self.timeline.key_before):
            if not self._decode_group(key, {pts: index_of[pts] for pts in group}):
                return

    def _decode_group(self, key: int, index_of: dict[int, int]) -> bool:
        """Find the frames that depend on the key frame at position `key`: {presentation time: index}."""
        left = set(index_of)
        for start, seek_to in _ATTEMPTS:
            first = max(0, key - start)
            packets = self.video.packets_from(
                self.timeline.key_frame(first), seek_to=self.timeline.key_frame(max(0, key - seek_to))
            )
            frames = self._decode(packets, wanted=frozenset(index_of), is_whole=first == 0)
            for frame in self._in_order(frames):
                if frame.pts in index_of:
                    self._keep(index_of[frame.pts], frame)
                    left.discard(frame.pts)
            if not left:
                return True
        return False

    def _decode(
        self, packets: Iterator[Packet[VideoStream]], *, wanted: frozenset[int], is_whole: bool
    ) -> Iterator[VideoFrame]:
        """Decode and yield only what the frames with the times in `wanted` need.

        `is_whole`: the packets are those from the first key frame on, as in a full decode.
        """
        first = next(packets, None)
        # The first frames of an open group of pictures need the group before it.
        if first is None or first.pts is None or (first.pts > min(wanted) and not is_whole):
            return
        is_valid = is_whole
        for frame in self._decode_needed(chain((first,), packets), wanted):
            if not is_valid and frame.pts is not None and frame.pts >= first.pts:
                is_valid = self.video.stands_alone(frame)
                # The packet was flagged as a key frame and is none: what follows has the right times and wrong pixels.
                if not is_valid:
                    return
            yield frame

    def _decode_needed(self, packets: Iterable[Packet[VideoStream]], wanted: frozenset[int]) -> Iterator[VideoFrame]:
        is_interlaced = self.video.is_interlaced
        num_left = len(wanted)
        for packet in packets:
            if not packet.is_discard and self.timeline.contradicts(packet.pts):
                self.is_contradicted = True
                return
            is_last = num_left == 0
            is_wanted = packet.pts in wanted
            # The decoder reads ahead, so this holds until all wanted packets are read, not only the next.
            self.video.skip_unreferenced(not is_wanted and not is_interlaced)
            yield from self.video.decode(packet)
            num_left -= is_wanted
            # Two fields can come in two packets.
            if is_last or (num_left == 0 and not is_interlaced):
                break
        yield from self.video.decode(None)

    def _in_order(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        """Yield frames while their times ascend; others are wrong and identify no frame."""
        last = NO_TIME
        for frame in frames:
            if frame.pts is None or frame.pts <= last:
                self.is_disordered = True
                return
            last = frame.pts
            yield frame

    def from_start(self) -> int:
        """Find the frames by decoding all; return how many were decoded.

        A frame that does not decode is replaced by the one before it, as in a player.
        """
        times, left = self.timeline.times, sorted(set(self.indices), reverse=True)
        before: VideoFrame | None = None
        num_decoded = 0
        for at, frame in self._decode_all():
            self.orientation = self.orientation or Orientation.of(frame)
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
        """Yield every frame with its time, or, without times, its number."""
        packets: Iterable[Packet[VideoStream] | None] = chain(self.video.packets(), (None,))
        frames = (frame for packet in packets for frame in self.video.decode(packet))
        if not len(self.timeline.times):
            return enumerate(frames)
        return ((frame.pts, frame) for frame in self._in_order(frames) if frame.pts is not None)

    def _keep(self, index: int, frame: VideoFrame, *, is_replacement: bool = False) -> None:
        self.orientation = self.orientation or Orientation.of(frame)
        if index not in self.indices:
            return
        if is_replacement:
            self.replaced.append(index)
        if frame.is_corrupt:
            self.damaged.append(index)
        self.found[index] = SampledFrame(index, frame.time, self.convert(frame, self.orientation))

    def result(self) -> SampledVideo[T]:
        """Return what was found."""
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
        if self.video.choice.warning:
            yield self.video.choice.warning
        rest = self.orientation.rest_degrees if self.orientation else 0.0
        if abs(rest) > _MAX_REST_DEGREES:
            yield f"rotation: the file says {rest:.1f} degrees beside quarter turns, which are not applied"
        num_in_file = self.timeline.num_frames + self.timeline.num_unshown
        if self.video.num_promised > num_in_file + self.timeline.num_gaps:
            yield f"truncated: the file promises {self.video.num_promised} frames and holds {num_in_file}"
        elif self._end_seconds < 0.9 * self.video.promised_seconds - 1:
            promised = self.video.promised_seconds
            yield f"truncated: the file promises {promised:.1f} s and ends after {self._end_seconds:.1f} s"
        elif self.video.broke_off:
            yield f"truncated: reading failed after {num_in_file} frames"
        if self.replaced:
            yield f"damaged: frames {sorted(self.replaced)} do not decode and are replaced by the ones before them"
        if self.damaged:
            yield f"damaged: frames {sorted(set(self.damaged))} are decoded in part"
