"""Decodes damaged media files, in child processes with bounded memory: `make fuzz-media`.

Each must give eight frames or a `MediaError`; a crash, another error, a hang or too much memory fails the run. What is
damaged and how follows from the seed and the number of the case, so one case can be repeated: `--first N --cases 1`.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.heic import write_heic
from support.videos import picture, write_sound, write_video
from video_llava_client import Clip, MediaError, MediaLimits, load_image

MAX_MEMORY_BYTES = 2 * 2**30  # of addresses, FFmpeg's and NumPy's libraries included
CASE_SECONDS = 10
BATCH = 500
LIMITS = MediaLimits(max_pixels=2_000_000, timeout_seconds=CASE_SECONDS / 2)
SIZE = 56

VIDEOS: dict[str, dict[str, Any]] = {
    "a.mp4": {"bf": "2", "g": "10", "sound": True},
    "b.mp4": {"bf": "2", "g": "10", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "c.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "d.mkv": {"bf": "2", "g": "10"},
    "e.webm": {"codec": "libvpx-vp9", "g": "10"},
    "f.avi": {"codec": "mpeg4", "g": "10", "bf": "2"},
    "g.ts": {"bf": "2", "g": "10", "sound": True},
    "h.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "i.mp4": {"codec": "libx265", "x265-params": "log-level=none:keyint=10"},
    "j.mp4": {"codec": "libsvtav1", "g": "10"},
    "k.mpg": {"codec": "mpeg2video", "g": "10", "bf": "2"},
    "l.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "m.flv": {"bf": "2", "g": "10"},
    "n.webm": {"codec": "libvpx", "g": "10"},
    "o.h264": {"bf": "2", "g": "10"},
    "p.apng": {"codec": "apng", "pix_fmt": "rgba"},
    "q.ogg": {"codec": "libvpx", "g": "10"},
    "r.wmv": {"codec": "wmv2", "g": "10"},
    "v.avi": {"codec": "h263", "g": "10", "size": (128, 96)},
    "w.mov": {"codec": "qtrle", "pix_fmt": "rgb24", "g": "10"},
    "x.mov": {"bf": "2", "g": "10", "matrix": [-65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30]},
}


def make_seeds(folder: Path) -> None:
    """Write the files that are then damaged."""
    for name, options in VIDEOS.items():
        write_video(folder / name, 30, **{"size": (64, 48), **options})
    write_sound(folder / "s.mp3", codec="mp3", cover=True)
    pictures = [Image.fromarray(picture(index, 64, 48)) for index in range(10)]
    pictures[0].save(folder / "t.webp", save_all=True, append_images=pictures[1:], duration=50)
    pictures[0].save(folder / "y.avif", save_all=True, append_images=pictures[1:], duration=50)
    write_heic(folder / "z.heic", picture(0, 100, 80))
    (folder / "z.mp4").write_bytes((Path(__file__).parents[1] / "media" / "leading.mp4").read_bytes())
    for suffix in ("png", "jpg", "tiff", "bmp", "avif", "gif"):
        pictures[0].save(folder / f"u.{suffix}")


def damage(data: bytes, random: np.random.Generator) -> bytes:
    """Return `data` with a few bytes changed, cut out, repeated, zeroed, or its end cut off."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 4)):
        kind = random.integers(6)
        start = int(random.integers(len(changed)) ** 2 // len(changed)) if len(changed) else 0
        length = int(random.integers(1, 200))
        if kind == 0:
            changed = changed[: max(1, start)]
        elif kind == 1:
            del changed[start : start + length]
        elif kind == 2:
            changed[start:start] = changed[start : start + length]
        elif kind == 3:
            changed[start : start + length] = bytes(len(changed[start : start + length]))
        else:
            for position in random.integers(start, start + length, random.integers(1, 20)):
                if position < len(changed):
                    changed[position] = random.integers(256)
    return bytes(changed)


def case(number: int, seeds: list[Path], seed: int) -> tuple[str, bytes]:
    """Return the name and the content of one case."""
    random = np.random.default_rng([seed, number])
    path = seeds[int(random.integers(len(seeds)))]
    return path.name, damage(path.read_bytes(), random)


def run_case(name: str, data: bytes, folder: Path) -> str:
    """Decode it as a video and as an image; return what came of it."""
    path = folder / f"case{Path(name).suffix}"
    path.write_bytes(data)
    outcomes = []
    for load in (Clip.load, load_image):
        try:
            loaded: Any = load(path, size=SIZE, limits=LIMITS)
        except MediaError as exc:
            assert str(path) in str(exc)
            outcomes.append(type(exc).__name__)
        else:
            outcomes.append("warned" if getattr(getattr(loaded, "info", None), "warnings", ()) else "pixels")
    return " / ".join(outcomes)


def child(first: int, num_cases: int, seeds_folder: Path, seed: int) -> None:
    """Run some cases in this process, a line for each on stdout: its number before, its outcome after."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    seeds = sorted(seeds_folder.iterdir())
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + num_cases):
            name, data = case(number, seeds, seed)
            print(number, flush=True)
            started = time.monotonic()
            print(f"{run_case(name, data, Path(folder))}\t{time.monotonic() - started:.3f}", flush=True)


def run_batches(first: int, num_cases: int, seeds_folder: Path, seed: int) -> Iterator[tuple[int, str, float]]:
    """Yield (number, outcome, seconds) of every case; after a crash or a hang go on with the next one."""
    number, end = first, first + num_cases
    while number < end:
        size = min(BATCH, end - number)
        lines, error = _run_child(number, size, seeds_folder, seed)
        outcomes = lines[1::2]
        for offset, line in enumerate(outcomes):
            outcome, seconds = line.split("\t")
            yield number + offset, outcome, float(seconds)
        number += len(outcomes)
        if len(outcomes) < size:
            yield number, f"FAILED: {error}", 0.0
            number += 1


def _run_child(first: int, num_cases: int, seeds_folder: Path, seed: int) -> tuple[list[str], str]:
    options = ["--child", str(seeds_folder), "--first", str(first), "--cases", str(num_cases), "--seed", str(seed)]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, __file__, *options], stdout=output, stderr=errors)
        error = _wait(process, output)
        output.seek(0)
        errors.seek(0)
        last = (errors.read().strip().splitlines() or [""])[-1]
        return output.read().split("\n")[:-1], f"{error or f'exit code {process.returncode}'} {last}"


def _wait(process: subprocess.Popen[bytes], output: Any) -> str:
    """Wait for the child as long as it gets on."""
    size, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        grown = os.fstat(output.fileno()).st_size
        if grown != size:
            size, since = grown, time.monotonic()
        elif time.monotonic() - since > 2 * CASE_SECONDS:
            process.kill()
            process.wait()
            return f"hung for {2 * CASE_SECONDS} s"
    return ""


def main() -> None:
    """Run the cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.first, arguments.cases, arguments.child, arguments.seed)
        return
    with tempfile.TemporaryDirectory() as folder:
        make_seeds(Path(folder))
        results = list(run_batches(arguments.first, arguments.cases, Path(folder), arguments.seed))
    for outcome, count in collections.Counter(outcome for _, outcome, _ in results).most_common():
        print(f"{count:>6}  {outcome}")
    print(
        f"slowest: {max(seconds for *_, seconds in results):.2f} s; peak memory of the children: "
        f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB resident"
    )
    failed = [(number, outcome) for number, outcome, _ in results if outcome.startswith("FAILED")]
    for number, outcome in failed:
        print(f"case {number} {outcome}", file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
