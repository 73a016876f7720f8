"""The frames of a video, by its index or its packets, without decoding."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import Any

import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream
from numpy.typing import NDArray

from .container import NO_TIME, KeyFrame, Video

# Formats whose index lists every frame and is read when the file is opened.
_INDEXED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")
_KEYFRAME, _DISCARD = 1, 2  # FFmpeg's AVINDEX_ flags
_NUM_TAIL_ENTRIES = 4
_NUM_ENTRIES_AT_ONCE = 4096
_MAX_START_PACKETS = 1000


@dataclass(frozen=True, eq=False)
class Timeline:
    """Every frame of a video stream. (Headers often count wrongly, or not at all.)

    Attributes:
        num_frames: How many are shown.
        times: int64 [num_frames], ascending: when each is shown, in units of the stream's time base; empty if
            frames have no times, or share one.
        key_pts: int64 [keys], ascending: presentation times of the key frames, unshown ones included; from an
            index, no later than the true times.
        key_dts: int64 [keys]: their decoding times.
        num_unshown: Frames in the file that are not shown: cut off by an edit list, or before the first key frame.
        num_gaps: Frames that the file counts and does not hold: each repeats the one before it.
        is_predicted: From the index: `times` must be compared with those of the packets.
    """

    num_frames: int
    times: NDArray[Any]
    key_pts: NDArray[Any]
    key_dts: NDArray[Any]
    num_unshown: int = 0
    num_gaps: int = 0
    is_predicted: bool = False

    @classmethod
    def from_index(cls, video: Video) -> Timeline | None:
        """Return the timeline by the index of `video`; None if the index is not certain.

        The index has decoding times. If they are evenly spaced, reordering only permutes them, so they give the
        presentation times. A truncated or fragmented file does not end where its index does.
        """
        if video.format not in _INDEXED_FORMATS or _guesses_times(video):
            return None
        dts, flags, is_full = _read_index(video)
        if len(dts) < 2 or len(dts) != video.stream.frames or len(np.unique(np.diff(dts))) != 1 or dts[1] <= dts[0]:
            return None
        if not is_full:
            return None
        first = next(video.packets(), None)
        if first is None or first.pts is None or first.dts is None or first.dts != dts[0]:
            return None
        delay = first.pts - first.dts
        shown = flags & _DISCARD == 0
        # A delay means that frames are reordered; then the index does not say which presentation times are unshown.
        if (delay and not shown.all()) or not video.can_seek or not _ends_with(video, dts):
            return None
        keys = dts[flags & _KEYFRAME != 0]
        times = dts[shown] + delay
        return cls(len(times), times, keys + delay, keys, num_unshown=len(dts) - len(times), is_predicted=True)

    @classmethod
    def from_packets(cls, video: Video) -> Timeline:
        """Read `video` to its end without decoding it."""
        shown, key_pts, key_dts, slots = array("q"), array("q"), array("q"), array("q")
        num_unshown = 0
        start: list[Packet[VideoStream]] = []
        is_start = True
        for packet in video.packets():
            if video.format == "avi" and packet.dts is not None:
                slots.append(packet.dts)
            pts = _time(packet.pts)
            if packet.is_keyframe and pts != NO_TIME:
                key_pts.append(pts)
                key_dts.append(_time(packet.dts))
            if is_start:
                # Up to the first frame that follows the first key frame in both orders.
                start.append(packet)
                is_start = (not key_pts or pts <= key_pts[0]) and len(start) < _MAX_START_PACKETS
            if packet.is_discard:
                num_unshown += 1
            else:
                shown.append(pts)
        times = np.array(shown, np.int64)
        keys = np.array([key_pts, key_dts], np.int64)
        num_gaps = _num_gaps(np.array(slots, np.int64)) if slots else video.num_empty
        if not _are_trusted(video, times, keys[0]):
            return cls(len(times), times[:0], *keys, num_unshown=num_unshown, num_gaps=num_gaps)
        decodable = np.sort(times)
        if key_pts and decodable[0] < key_pts[0]:
            # Frames before the first key frame need others or do not: decoding tells.
            frames = (frame for packet in (*start, None) for frame in video.decode(packet))
            early = [frame.pts for frame in frames if frame.pts is not None]
            decodable = decodable[(decodable >= key_pts[0]) | np.isin(decodable, early)]
        num_unshown += len(times) - len(decodable)
        return cls(len(decodable), decodable, *keys, num_unshown=num_unshown, num_gaps=num_gaps)

    def duration_seconds(self, time_base: float) -> float | None:
        """Return the time from the first frame to the end of the last, which is shown for the average time."""
        if len(self.times) < 2:
            return None
        return float(self.times[-1] - self.times[0]) * time_base * len(self.times) / (len(self.times) - 1)

    def key_frame(self, position: int) -> KeyFrame:
        """Return a key frame by its position in `key_pts`."""
        return KeyFrame(pts=int(self.key_pts[position]), dts=int(self.key_dts[position]))

    def key_before(self, pts: int) -> int:
        """Return the position of the last key frame at or before `pts`, or of the first."""
        return max(0, int(np.searchsorted(self.key_pts, pts, side="right")) - 1)

    def contradicts(self, pts: int | None) -> bool:
        """Whether a packet with this time proves the index wrong."""
        if not self.is_predicted or pts is None:
            return self.is_predicted
        position = int(np.searchsorted(self.times, pts))
        return position == len(self.times) or int(self.times[position]) != pts


def _read_index(video: Video) -> tuple[NDArray[Any], NDArray[Any], bool]:
    """Return decoding times and flags of the index, and whether no packet is empty and so shows no frame of its own.

    It is read in parts, because each entry becomes an object.
    """
    entries, dts, flags, is_full = video.stream.index_entries, array("q"), array("q"), True
    for start in range(0, len(entries), _NUM_ENTRIES_AT_ONCE):
        part = entries[start : start + _NUM_ENTRIES_AT_ONCE]
        dts.extend(map(attrgetter("timestamp"), part))
        flags.extend(map(attrgetter("flags"), part))
        is_full = all(map(attrgetter("size"), part)) and is_full
    return np.array(dts, np.int64), np.array(flags, np.int64), is_full


def _guesses_times(video: Video) -> bool:
    """Whether FFmpeg guesses the presentation times: AVI has none, and B-frames need them."""
    return video.format == "avi" and video.stream.codec_context.has_b_frames


def _are_trusted(video: Video, times: NDArray[Any], key_pts: NDArray[Any]) -> bool:
    """Whether `times`, of the packets in the file's order, identify the frames."""
    if not len(times) or NO_TIME in times or len(np.unique(times)) != len(times):
        return False
    # Not if the stream restarts, or has B-frames that FFmpeg did not notice.
    return bool((np.diff(key_pts) > 0).all()) and not (_guesses_times(video) and (np.diff(times) > 0).all())


def _time(time: int | None) -> int:
    return NO_TIME if time is None else time


def _num_gaps(slots: NDArray[Any]) -> int:
    """Return how many frames an AVI counts beside those with these places; it may end with a gap like the others."""
    steps = np.diff(np.sort(slots), prepend=-1)
    return int((steps - 1).sum() + steps.max() - 1)


def _ends_with(video: Video, dts: NDArray[Any]) -> bool:
    """Whether the packets at the end of the file are those at the end of the index."""
    if not video.seek(int(dts[-min(len(dts), _NUM_TAIL_ENTRIES)]), any_frame=True):
        return False
    read = [packet.dts for packet in islice(video.packets(), len(dts) + 1)]
    return 0 < len(read) <= len(dts) and read == dts[-len(read) :].tolist()
