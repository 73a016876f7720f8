"""Clips of a real street that are all different, made without encoding each one."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

_CLIP = Path(__file__).parents[2] / "media" / "bikes.mp4"
_RATE = 25


@dataclass(frozen=True)
class Kind:
    """H.264 of `num_parts` parts of `part_seconds`, each with a key frame at its begin; by default `number` clips."""

    width: int
    height: int
    num_parts: int
    part_seconds: int
    megabits: int
    number: int


KINDS = {
    "web": Kind(1280, 720, num_parts=4, part_seconds=2, megabits=2, number=300),
    "phone": Kind(1920, 1080, num_parts=8, part_seconds=1, megabits=17, number=60),
}


def write_clips(folder: Path, kind: Kind, number: int) -> list[Path]:
    """Write `number` clips, at most 360, and return them. Each part is encoded once, and its packets are copied."""
    paths = [folder / f"{index:04d}.mp4" for index in range(number)]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        parts = [_part(folder / f"part-{index}.mov", index, kind) for index in range(kind.num_parts + 2)]
        for path, order in zip(paths, islice(permutations(parts, kind.num_parts), number), strict=True):
            new = path.with_suffix(".new")
            _join(order, new, kind)
            new.rename(path)
        for part in parts:
            part.unlink()
    return paths


def _part(path: Path, index: int, kind: Kind) -> Path:
    with av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "b": f"{kind.megabits}M", "g": "100000", "sc_threshold": "0"}
        stream: Any = container.add_stream("libx264", rate=_RATE, options=options)
        stream.width, stream.height, stream.pix_fmt = kind.width, kind.height, "yuv420p"
        for number, picture in enumerate(islice(_pictures(index, kind), kind.part_seconds * _RATE)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _pictures(index: int, kind: Kind) -> Iterator[np.ndarray]:
    left = 15 * index
    with av.open(str(_CLIP)) as container:
        for frame in container.decode(video=0):
            part = frame.to_image().crop((left, 0, left + 484, 272))
            yield np.asarray(part.resize((kind.width, kind.height), Image.Resampling.BILINEAR))


def _join(parts: tuple[Path, ...], path: Path, kind: Kind) -> None:
    with av.open(str(path), "w", format="mp4") as output:
        stream: Any = None
        for place, part in enumerate(parts):
            with av.open(str(part)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                offset = int(place * kind.part_seconds / (video.time_base or 1))
                for packet in container.demux(video):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                        output.mux(packet)
