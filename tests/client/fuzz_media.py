"""Decodes damaged media files in `DecoderProcesses`: `make fuzz-media`.

Each must give eight frames or a `MediaError`; another error, or a process that crashes or has to be killed, fails the
run. What is damaged and how follows from the seed and the number of the case, so one case can be repeated:
`--first N --cases 1`.
"""

from __future__ import annotations

import argparse
import collections
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.heic import write_heic
from support.videos import picture, write_sound, write_video
from video_llava_client import Clip, DecoderProcesses, MediaError, MediaLimits, load_image
from video_llava_client.workers.process import ProcessDied

LIMITS = MediaLimits(max_pixels=2_000_000, timeout_seconds=5)
SIZE = 56


class Result(NamedTuple):
    """What came of one case."""

    number: int
    outcome: str
    seconds: float


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


def run_case(number: int, seeds: list[Path], seed: int, folder: Path, decoders: DecoderProcesses) -> Result:
    """Decode one case as a video and as an image; return what came of it."""
    name, data = case(number, seeds, seed)
    path = folder / f"case{number}{Path(name).suffix}"
    path.write_bytes(data)
    started = time.monotonic()
    outcome = " / ".join(outcome_of(load, path, decoders) for load in (Clip.load, load_image))
    path.unlink()
    return Result(number, outcome, time.monotonic() - started)


def outcome_of(load: Callable[..., Any], path: Path, decoders: DecoderProcesses) -> str:
    """Return what `load` does with the file, in a word."""
    try:
        loaded = load(path, size=SIZE, limits=LIMITS, decoders=decoders)
    except MediaError as exc:
        if isinstance(exc.__cause__, ProcessDied) or str(path) not in str(exc):
            return f"FAILED {exc} ({exc.__cause__})"
        return type(exc).__name__
    except Exception as exc:  # noqa: BLE001
        return f"FAILED {type(exc).__name__}: {exc}"
    return "warned" if getattr(getattr(loaded, "info", None), "warnings", ()) else "pixels"


def main() -> None:
    """Run the cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as folder, DecoderProcesses() as decoders:
        make_seeds(Path(made))
        seeds = sorted(Path(made).iterdir())
        with ThreadPoolExecutor(decoders.num_processes) as threads:
            numbers = range(arguments.first, arguments.first + arguments.cases)
            run = partial(run_case, seeds=seeds, seed=arguments.seed, folder=Path(folder), decoders=decoders)
            results = list(threads.map(run, numbers))
    for outcome, count in collections.Counter(result.outcome for result in results).most_common():
        print(f"{count:>6}  {outcome}")
    print(
        f"slowest: {max(result.seconds for result in results):.2f} s; peak memory of the processes: "
        f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB resident"
    )
    failed = [result for result in results if "FAILED" in result.outcome]
    for result in failed:
        print(f"case {result.number} {result.outcome}", file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
