"""What the packets of a video say of its frames, before anything is decoded."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from av.container import InputContainer
from av.video.stream import VideoStream


@dataclass(frozen=True)
class KeyFrame:
    """A frame that decodes on its own; times in units of the stream's time base."""

    pts: int
    dts: int | None


@dataclass(frozen=True)
class Timeline:
    """Every frame of a video stream, found by reading the packets: headers count wrongly, or not at all.

    Attributes:
        pts: Presentation time of each frame in units of the stream's time base, in the file's order.
        keys: The key frames in presentation order; also those that an edit list keeps from being shown.
    """

    pts: tuple[int | None, ...]
    keys: tuple[KeyFrame, ...]

    @classmethod
    def read(cls, container: InputContainer, stream: VideoStream) -> Timeline:
        """Read `stream` to its end without decoding it."""
        packets = [packet for packet in container.demux(stream) if packet.size]
        keys = (KeyFrame(p.pts, p.dts) for p in packets if p.is_keyframe and p.pts is not None)
        # An edit list leaves frames in the file that are decoded, but not shown.
        shown = (p.pts for p in packets if not p.is_discard)
        return cls(pts=tuple(shown), keys=tuple(sorted(keys, key=_pts)))

    @property
    def num_frames(self) -> int:
        """How many frames are shown."""
        return len(self.pts)

    @cached_property
    def index_of_pts(self) -> dict[int, int]:
        """{presentation time: index in presentation order}, empty where frames have no time or share one."""
        times = sorted({pts for pts in self.pts if pts is not None})
        return {pts: index for index, pts in enumerate(times)} if len(times) == self.num_frames else {}

    def by_key(self, indices: Iterable[int]) -> dict[KeyFrame, frozenset[int]]:
        """Return {key frame to start decoding at: presentation times of the frames to get from there}.

        Empty where one of the frames has no key frame at or before it, or no time of its own.
        """
        times = list(self.index_of_pts)
        groups: defaultdict[KeyFrame, set[int]] = defaultdict(set)
        for index in sorted(indices):
            num_before = bisect_right(self.keys, times[index], key=_pts) if times else 0
            if num_before == 0:
                return {}
            groups[self.keys[num_before - 1]].add(times[index])
        return {key: frozenset(group) for key, group in groups.items()}


def _pts(key: KeyFrame) -> int:
    return key.pts
