"""Videos made on the spot, and what a full decode gives of them."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import av.bitstream
import av.error
import numpy as np


def write_video(
    path: Path,
    num_frames: int,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (96, 64),
    rotation: int = 0,
    matrix: list[int] | None = None,
    times: Callable[[int], int] = lambda index: index,
    rate: int = 25,
    sound: bool = False,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Write a video in which every frame differs from every other; `times` gives a frame's time in 1/rate s."""
    width, height = size
    with (
        _own_scheduling(),
        av.open(str(path), "w", format=container_format, options=container_options or {}) as container,
    ):
        stream: Any = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        if matrix:
            stream.set_display_matrix(matrix)
        tone: Any = container.add_stream("aac", rate=8000) if sound else None
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
            frame.pts = times(index)
            container.mux(stream.encode(frame))
            if tone is not None:
                container.mux(tone.encode(_silence(index)))
        container.mux(stream.encode(None))
        if tone is not None:
            container.mux(tone.encode(None))
    return path


@contextmanager
def _own_scheduling() -> Iterator[None]:
    """SVT-AV1, run by root, makes the thread that calls it a real-time one, and so all that this thread starts later:
    servers of other tests, which then starve each other."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def write_pictures(
    path: Path, pictures: list[np.ndarray], *, codec: str, pix_fmt: str, options: dict[str, str] | None = None
) -> Path:
    """Write these pictures, uint8 [height, width, 3], as a video of 25 frames a second."""
    height, width, _ = pictures[0].shape
    with _own_scheduling(), av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for index, pixels in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(
    source: Path,
    path: Path,
    *,
    container_format: str | None = None,
    bitstream_filter: str | None = None,
    is_kept: Callable[[Any], bool] = lambda packet: True,  # noqa: ARG005
) -> Path:
    """Copy the packets for which `is_kept` is true, without encoding them again."""
    with av.open(str(source)) as container, av.open(str(path), "w", format=container_format) as output:
        stream: Any = container.streams.video[0]
        copy = output.add_stream_from_template(stream)
        changed = av.bitstream.BitStreamFilterContext(bitstream_filter, stream) if bitstream_filter else None
        for packet in container.demux(stream):
            if packet.size and is_kept(packet):
                for written in changed.filter(packet) if changed else [packet]:
                    written.stream = copy
                    output.mux(written)
    return path


def picture(index: int, width: int, height: int) -> np.ndarray:
    """Return frame number `index`, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    channels = (x * 2 + index * 7, y * 3 + index * 11, (x + y) + index * 5)
    return np.stack(channels, axis=-1).astype(np.uint8)


def decode_all(path: Path) -> tuple[list[np.ndarray], list[float | None]]:
    """Return the upright pixels and the times of every frame, by decoding every frame."""
    with av.open(str(path)) as container:
        stream = next(s for s in container.streams.video if not s.disposition & s.disposition.attached_pic)
        frames = [frame for packet in container.demux(stream) for frame in _decode(packet)]
    # The first frame's rotation holds for all.
    upright = [np.rot90(frame.to_ndarray(format="rgb24"), k=frames[0].rotation // 90) for frame in frames]
    return upright, [frame.time for frame in frames]


def _decode(packet: Any) -> list[Any]:
    try:
        return packet.decode()
    except av.error.FFmpegError:
        return []


def _silence(index: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 320), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 8000, index * 320
    return frame


def write_sound(path: Path, *, codec: str = "aac", cover: bool = False) -> Path:
    """Write a second of silence, with a cover picture if wanted."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=8000, layout="mono")
        picture_stream: Any = container.add_stream("mjpeg", rate=1) if cover else None
        if picture_stream is not None:
            picture_stream.width, picture_stream.height, picture_stream.pix_fmt = 32, 32, "yuvj420p"
            picture_stream.disposition = picture_stream.disposition.attached_pic
        if picture_stream is not None:
            frame = av.VideoFrame.from_ndarray(picture(0, 32, 32), format="rgb24")
            container.mux(picture_stream.encode(frame))
            container.mux(picture_stream.encode(None))
        for index in range(25):
            container.mux(stream.encode(_silence(index)))
        container.mux(stream.encode(None))
    return path
