"""How fast this machine decodes the frames that the model sees: in one process, and in several at a time."""

from __future__ import annotations

import io
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

# PyAV and FFmpeg are loaded before the first file, not for it.
from . import animations, decoding  # noqa: F401
from .clip import Clip
from .errors import VideoLlavaError
from .loading import Loading
from .sources import open_media
from .window import Window
from .workers.pool import DecoderProcesses

_START_SECONDS = 60.0  # of all processes; BrokenBarrierError after it


@dataclass(frozen=True)
class Speed:
    """What so many processes decode at a time.

    Attributes:
        num_processes: Each decodes one clip after the other.
        clips_per_second: All of them together.
        video_seconds_per_second: How long the videos of these clips are.
    """

    num_processes: int
    clips_per_second: float
    video_seconds_per_second: float


class DecodingSpeed:
    """Measures with files in a random order that is always the same, and anew when all were read.

    Args:
        files: Videos, at least one.
        size: Width and height of a frame, in pixels.
        seconds: For each measurement. What has begun by then is decoded to its end.

    Attributes:
        speeds: What `measure` found.
        stage_seconds: What `measure_stages` spent on reading, on decoding, and on resizing as far as that, on another
            thread, took longer.
        seconds_by_file: Of each file that it decoded.
        cpu_seconds: Of a clip there, on average.
        errors: For each type of error the files that have it, with its message.
    """

    def __init__(self, files: Sequence[Path], *, size: int, seconds: float) -> None:
        self.speeds: list[Speed] = []
        self.stage_seconds: dict[str, float] = {"read": 0.0, "decode": 0.0, "resize": 0.0}
        self.seconds_by_file: dict[str, float] = {}
        self.cpu_seconds: float = 0.0
        self.errors: dict[str, dict[str, str]] = {}
        self._files = random.Random(0).sample(files, len(files))
        self._next = cycle(self._files)
        self._lock = threading.Lock()
        self._tried: set[Path] = set()
        self._size = size
        self._seconds = seconds

    @property
    def num_files(self) -> int:
        """Files that were given."""
        return len(self._files)

    @property
    def num_tried(self) -> int:
        """Files that were read at least once."""
        return len(self._tried)

    @property
    def num_failed(self) -> int:
        """How many of them cannot be used."""
        return sum(map(len, self.errors.values()))

    def measure_stages(self) -> None:
        """Decode in this process, each file at most once, until the time is over and one was decoded."""
        ends_at, cpu_began = time.perf_counter() + self._seconds, time.process_time()
        for _ in self._files:
            started = time.perf_counter()
            if self.seconds_by_file and started >= ends_at:
                break
            file = self._take()
            try:
                self._decode_here(file)
            except (VideoLlavaError, OSError) as exc:
                self._failed(file, exc)
            else:
                self.seconds_by_file[str(file)] = time.perf_counter() - started
        self.cpu_seconds = (time.process_time() - cpu_began) / max(1, len(self.seconds_by_file))

    def measure(self, num_processes: int) -> Speed:
        """Decode in so many processes of `DecoderProcesses`."""
        are_ready = threading.Barrier(num_processes, timeout=_START_SECONDS)
        with DecoderProcesses(num_processes) as decoders, ThreadPoolExecutor(num_processes) as threads:
            found = threads.map(lambda _: self._decode_there(decoders, are_ready), range(num_processes))
            clips, video_seconds = (sum(each) for each in zip(*found, strict=True))
        self.speeds.append(Speed(num_processes, clips, video_seconds))
        return self.speeds[-1]

    def _decode_here(self, path: Path) -> None:
        loading = Loading()
        with _TimedFile(path) as raw, open_media(io.BufferedReader(raw), loading.limits) as media:
            Clip.from_media(media, size=self._size, window=Window(), loading=loading)
        seconds = loading.stopwatch.seconds
        self.stage_seconds["read"] += raw.seconds
        self.stage_seconds["decode"] += seconds["decode"] - raw.seconds
        self.stage_seconds["resize"] += seconds["preprocess"]

    def _decode_there(self, decoders: DecoderProcesses, are_ready: threading.Barrier) -> tuple[float, float]:
        """Return clips, and seconds of their videos, per second of one process."""
        with suppress(VideoLlavaError):  # starts it
            Clip.load(self._files[0], size=self._size, decoders=decoders)
        are_ready.wait()
        began = now = time.perf_counter()
        num_clips, video_seconds = 0, 0.0
        while now - began < self._seconds:
            file = self._take()
            try:
                clip = Clip.load(file, size=self._size, decoders=decoders)
            except VideoLlavaError as exc:
                self._failed(file, exc)
            else:
                num_clips += 1
                video_seconds += clip.info.duration_seconds or 0.0
            now = time.perf_counter()
        return num_clips / (now - began), video_seconds / (now - began)

    def _take(self) -> Path:
        with self._lock:
            file = next(self._next)
            self._tried.add(file)
        return file

    def _failed(self, file: Path, error: Exception) -> None:
        with self._lock:
            self.errors.setdefault(type(error).__name__, {})[str(file)] = str(error)


class _TimedFile(io.FileIO):
    """A file that knows how long it was read."""

    seconds = 0.0

    def readinto(self, buffer: Any, /) -> int | None:
        began = time.perf_counter()
        try:
            return super().readinto(buffer)
        finally:
            self.seconds += time.perf_counter() - began
