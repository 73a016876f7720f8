"""Times ways to get the model's eight frames of a video, 224 x 224, from the same file: `make bench-decode`.

Two files are made once, under build/bench-decode: a minute of 720p H.264 out of the real clip of tests/media, in
x264's default groups of pictures, put one after the other to ten minutes and to an hour. Every way runs in a process
of its own, and its pixels are compared with those of a full decode. Seconds are wall time, the best of several runs;
memory is the peak of the process. `--isolated` times instead what decoding in a process of `DecoderProcesses` adds.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from video_llava_client import Clip, DecoderProcesses, load_image
from video_llava_client.pixels import fit_pixels
from video_llava_client.sampling import sample_indices

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "tests/media/bikes.mp4"
FOLDER = ROOT / "build/bench-decode"
WIDTH, HEIGHT, RATE = 1280, 720, 25
MINUTES = (10, 60)
SIZE = 224


def make_files(minutes: tuple[int, ...]) -> None:
    """Write the files that are not there yet: one minute, and those of so many."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    if not file_of(1).exists():
        _write_whole(file_of(1), _write_minute)
    for num_minutes in minutes:
        if not file_of(num_minutes).exists():
            _write_whole(file_of(num_minutes), lambda path, times=num_minutes: _repeat(file_of(1), path, times))


def file_of(num_minutes: int) -> Path:
    """Return the file of this length."""
    return FOLDER / f"{num_minutes}-minutes.mp4"


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    print(f"writing {path.relative_to(ROOT)} …", file=sys.stderr, flush=True)
    part = path.with_suffix(".part.mp4")
    write(part)
    part.rename(path)


def _write_minute(path: Path) -> None:
    """The clip six times over, each time another half of its picture, enlarged."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "26"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index, picture in enumerate(_pictures()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures() -> Iterator[np.ndarray]:
    for left in (0, 156, 40, 116, 80, 20):
        with av.open(str(CLIP)) as container:
            for frame in container.decode(video=0):
                part = frame.to_image().crop((left, 0, left + 484, 272))
                yield np.asarray(part.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


def _repeat(source: Path, path: Path, times: int) -> None:
    with av.open(str(path), "w") as output:
        stream: Any = None
        for repetition in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or output.add_stream_from_template(video)
                offset = int(repetition * 60 / Fraction(video.time_base or 1))
                for packet in container.demux(video):
                    if packet.dts is not None and packet.pts is not None:
                        packet.pts, packet.dts, packet.stream = packet.pts + offset, packet.dts + offset, stream
                        output.mux(packet)


def model_card(path: Path) -> np.ndarray:
    """Decode every frame up to the last one that is wanted, as the model card does."""
    frames = {}
    with av.open(str(path)) as container:
        wanted = set(sample_indices(container.streams.video[0].frames))
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                frames[index] = frame.to_ndarray(format="rgb24")
            if index >= max(wanted):
                break
    return np.stack([fit_pixels(frames[index], size=SIZE) for index in sorted(wanted)])


def this_client(path: Path) -> np.ndarray:
    """This client."""
    return Clip.load(path, size=SIZE).frames


def decord(path: Path) -> np.ndarray:
    """decord, by index."""
    from decord import VideoReader

    reader = VideoReader(str(path))
    frames = reader.get_batch(list(sample_indices(len(reader)))).asnumpy()
    return np.stack([fit_pixels(frame, size=SIZE) for frame in frames])


def opencv(path: Path) -> np.ndarray:
    """OpenCV, by setting the position."""
    import cv2

    capture = cv2.VideoCapture(str(path))
    frames = []
    for index in sample_indices(int(capture.get(cv2.CAP_PROP_FRAME_COUNT))):
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        frames.append(capture.read()[1][:, :, ::-1])
    return np.stack([fit_pixels(np.ascontiguousarray(frame), size=SIZE) for frame in frames])


WAYS = {way.__name__: way for way in (model_card, this_client, decord, opencv)}


@dataclass(frozen=True)
class Timing:
    """What one way took in its own process."""

    seconds: float
    cpu_seconds: float
    rss_bytes: int
    pixels: np.ndarray

    @classmethod
    def measure(cls, way: str, num_minutes: int, num_runs: int) -> Timing:
        """Run `way` in a new process."""
        pixels = FOLDER / f"{way}.npy"
        command = [sys.executable, __file__, "--way", way, "--minutes", str(num_minutes), "--runs", str(num_runs)]
        output = subprocess.run([*command, "--pixels", str(pixels)], check=True, stdout=subprocess.PIPE).stdout
        return cls(**json.loads(output), pixels=np.load(pixels))


def run_way(way: str, num_minutes: int, num_runs: int, pixels: Path) -> None:
    """In the process of its own: time `way`, and write what it gave."""
    WAYS[way](CLIP)  # its imports
    walls, cpus = [], []
    frames = np.zeros(0)
    for _ in range(num_runs):
        wall, cpu = time.perf_counter(), time.process_time()
        frames = WAYS[way](file_of(num_minutes))
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    np.save(pixels, frames)
    print(json.dumps({"seconds": min(walls), "cpu_seconds": min(cpus), "rss_bytes": _peak_rss_bytes()}))


def _peak_rss_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def full_decode(num_minutes: int) -> np.ndarray:
    """Return the right frames: every minute of the file is the same."""
    with av.open(str(file_of(1))) as container:
        num_frames = container.streams.video[0].frames
        wanted = [index % num_frames for index in sample_indices(num_frames * num_minutes)]
        decoded = enumerate(container.decode(video=0))
        frames = {index: frame.to_ndarray(format="rgb24") for index, frame in decoded if index in wanted}
    return np.stack([fit_pixels(frames[index], size=SIZE) for index in wanted])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--isolated", action="store_true", help="time what another process costs")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--pixels", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        run_way(arguments.way, arguments.minutes, arguments.runs, arguments.pixels)
        return
    make_files(() if arguments.isolated else MINUTES)
    if arguments.isolated:
        print_cost_of_isolation(arguments.runs)
        return
    print(f"{'file':<12}{'way':<14}{'seconds':>9}{'CPU':>9}{'ratio':>8}{'memory':>10}  frames")
    for num_minutes in MINUTES:
        _print_file(num_minutes, arguments.runs)


def print_cost_of_isolation(num_runs: int) -> None:
    """Decode each medium here and in another process, in turns, and print the median of the differences."""
    picture = FOLDER / "picture.jpg"
    with av.open(str(file_of(1))) as container:
        next(container.decode(video=0)).to_image().save(picture)
    print(f"{'medium':<22}{'here':>10}{'isolated':>10}{'difference':>12}")
    with DecoderProcesses(1) as decoders:
        for load, path in ((load_image, picture), (Clip.load, CLIP), (Clip.load, file_of(1))):
            for source in (path, path.read_bytes()):
                seconds = [[_seconds(load, source, each) for each in (None, decoders)] for _ in range(num_runs + 1)]
                here, there = np.array(seconds[1:]).T * 1000  # the first run starts the process
                name = f"{path.name}{'' if source is path else ', bytes'}"
                print(
                    f"{name:<22}{np.median(here):>7.1f} ms{np.median(there):>7.1f} ms{np.median(there - here):>9.1f} ms"
                )


def _seconds(load: Callable[..., Any], source: Path | bytes, decoders: DecoderProcesses | None) -> float:
    started = time.perf_counter()
    load(source, size=SIZE, decoders=decoders)
    return time.perf_counter() - started


def _print_file(num_minutes: int, num_runs: int) -> None:
    right = full_decode(num_minutes)
    ours = Timing.measure("this_client", num_minutes, num_runs)
    for way in WAYS:
        # An hour by the model card's way is six times ten minutes of it.
        if way == "model_card" and num_minutes > min(MINUTES):
            continue
        timing = (
            ours if way == "this_client" else Timing.measure(way, num_minutes, 1 if way == "model_card" else num_runs)
        )
        difference = np.abs(timing.pixels.astype(int) - right)
        verdict = "equal" if not difference.any() else f"differ: mean {difference.mean():.2f}, most {difference.max()}"
        print(
            f"{num_minutes:>3} minutes {way:<14}{timing.seconds:>9.3f}{timing.cpu_seconds:>9.3f}"
            f"{timing.seconds / ours.seconds:>7.1f}x{timing.rss_bytes / 2**20:>6.0f} MiB  {verdict}"
        )


if __name__ == "__main__":
    main()
