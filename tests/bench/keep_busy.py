"""`make bench-batch`: whether a batch keeps a server busy by itself, and what others notice. See `--help`."""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median

import av
import numpy as np
from video_llava_client import AsyncVideoLlava

from .checkpoints import Checkpoints, cache_bytes, export, make_checkpoints
from .contestants.triton import serving
from .shapes import FULL, IMAGE_SIZE, QUICK
from .workloads import frames_of

_ROOT = Path(__file__).parents[2]
_DESCRIPTION = """
A real tritonserver with a real engine of random weights. In turn: `video-llava batch`, which is told no concurrency,
and `video-llava-load` in a closed loop at several; then a caller who asks now and then, of an idle server and beside
the batch. Prints the medians of all rounds and of each round's ratios.
"""
_NUM_TOKENS = 32
_QUESTION = "What happens to the person in this video?"
_MAX_REQUESTS = 64


@dataclass(frozen=True)
class Place:
    """Where is measured.

    Attributes:
        url: Of the server.
        folder: For files.
        options: Of the command.
        numbers: Of clips that no server has seen.
    """

    url: str
    folder: Path
    options: argparse.Namespace
    numbers: Iterator[int] = field(default_factory=count)

    @contextmanager
    def job(self, *arguments: str) -> Iterator[Callable[[], int]]:
        """A batch about new videos that does not end meanwhile; yields what returns the number of its answers."""
        work = Path(tempfile.mkdtemp(dir=self.folder))
        lines, answers = work / "in.jsonl", work / "out.jsonl"
        videos = [_write_clip(work / f"{number}.mp4", next(self.numbers)) for number in range(self.options.videos)]
        sampling = {"max_tokens": _NUM_TOKENS, "sampling": {"ignore_eos": True}}
        lines.write_text(
            "".join(f"{json.dumps({'question': _QUESTION, 'video': str(each), **sampling})}\n" for each in videos)
        )
        process = _start("video-llava", "batch", lines, answers, "--url", self.url, "--timeout", "600", *arguments)

        def num_answered() -> int:
            if process.poll() is not None:
                raise RuntimeError(f"the batch has ended with {process.returncode}: raise --videos")
            return answers.read_bytes().count(b"\n") if answers.exists() else 0

        try:
            yield num_answered
        finally:
            process.terminate()
            process.communicate(timeout=120)


Figures = dict[str, tuple[float, float]]


def _throughput(place: Place) -> Figures:
    """Answers a second of both; the batch gets its first seconds to find its width."""
    with place.job() as num_answered:
        batch = _rate(num_answered, after_seconds=place.options.ramp, seconds=place.options.seconds)
    return {
        f"throughput, closed loop of {users} users and batch [1/s]": (_closed_loop(place, users), batch)
        for users in place.options.users
    }


def _rate(num_answered: Callable[[], int], *, after_seconds: float, seconds: float) -> float:
    time.sleep(after_seconds)
    first, began = num_answered(), time.monotonic()
    time.sleep(seconds)
    return (num_answered() - first) / (time.monotonic() - began)


def _closed_loop(place: Place, users: int) -> float:
    phases = (("warmup = true", max(5.0, place.options.ramp / 2)), ("", place.options.seconds))
    scenario, report = place.folder / "closed.toml", place.folder / "closed.json"
    scenario.write_text(
        "drain_seconds = 120\n[mix]\nvideo_cold = 1\n[requests]\nquestion_words = 8\n"
        f"output_tokens = {_NUM_TOKENS}\n"
        + "".join(f"[[phase]]\nseconds = {seconds}\nusers = {users}\n{more}\n" for more, seconds in phases)
    )
    process = _start("video-llava-load", "run", scenario, "--url", place.url, "--json", report, "--attempts", "50")
    output, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(output)
    # Answers that came within the phase.
    first, last = phases[0][1], sum(seconds for _, seconds in phases)
    ended = [each["ended"] for each in json.loads(report.read_text())["requests"] if each["outcome"] == "answered"]
    return sum(first <= each < last for each in ended) / (last - first)


def _beside(place: Place) -> Figures:
    """First tokens of a caller who asks every few seconds, and the batch without and with that caller."""
    alone = asyncio.run(_ask_now_and_then(place))
    with place.job(*place.options.batch) as num_answered:
        time.sleep(place.options.ramp)
        seconds = place.options.questions * place.options.every
        before = _rate(num_answered, after_seconds=0.0, seconds=seconds)
        first, began = num_answered(), time.monotonic()
        beside = asyncio.run(_ask_now_and_then(place))
        during = (num_answered() - first) / (time.monotonic() - began)
    return {
        "TTFT of a caller, idle and beside the batch, median [s]": (median(alone), median(beside)),
        "the same, p99 [s]": (_percentile(alone), _percentile(beside)),
        "throughput of the batch, alone and beside the caller [1/s]": (before, during),
    }


async def _ask_now_and_then(place: Place) -> list[float]:
    async with AsyncVideoLlava(place.url, timeout_seconds=600) as client:
        asking: list[asyncio.Task[float]] = []
        for _ in range(place.options.questions):
            asking.append(asyncio.create_task(_ask(client, place)))
            await asyncio.sleep(place.options.every)
        return await asyncio.gather(*asking)


async def _ask(client: AsyncVideoLlava, place: Place) -> float:
    """Return the seconds to the first token of an answer about a new video."""
    frames = frames_of(next(place.numbers))
    began = time.perf_counter()
    async with client.stream(_QUESTION, video=frames, max_tokens=_NUM_TOKENS) as stream:
        await anext(stream)
        first = time.perf_counter() - began
        await stream.until_done()
    return first


async def _warm_up(place: Place) -> None:
    async with AsyncVideoLlava(place.url, timeout_seconds=600) as client:
        await asyncio.gather(*(_ask(client, place) for _ in range(16)))


def _percentile(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99))


def _start(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _write_clip(path: Path, number: int) -> Path:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=8)
        stream.width = stream.height = IMAGE_SIZE
        stream.pix_fmt = "yuv420p"
        for pixels in frames_of(number):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode())
    return path


_MEASURES = {"throughput": _throughput, "beside": _beside}


def main() -> None:
    """Measure and print."""
    options = _options()
    shape = FULL if options.full else QUICK
    made = Checkpoints(options.folder / ("full" if options.full else "quick"))
    made.folder.mkdir(parents=True, exist_ok=True)
    make_checkpoints(made, shape)
    export(made.video_llava, made.model, kv_cache_memory_bytes=cache_bytes(shape, num_videos=_MAX_REQUESTS))
    rounds: list[Figures] = []
    with tempfile.TemporaryDirectory() as folder, serving(made.model) as server:
        place = Place(server.grpc_url, Path(folder), options)
        asyncio.run(_warm_up(place))
        for _ in range(options.rounds):
            for name in options.only or _MEASURES:
                rounds.append(_MEASURES[name](place))
                print({title: tuple(float(f"{x:.3g}") for x in pair) for title, pair in rounds[-1].items()}, flush=True)
    _print(rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-batch", description=_DESCRIPTION)
    parser.add_argument("--full", action="store_true", help="a quarter of the 7B's widths, instead of a tiny model")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20, help="of each measurement")
    parser.add_argument("--ramp", type=float, default=20, help="seconds of a batch that are not measured")
    parser.add_argument("--users", type=int, nargs="+", default=[4, 8, 16, 32], help="of the closed loop")
    parser.add_argument("--videos", type=int, default=2000, help="of a batch")
    parser.add_argument("--questions", type=int, default=30, help="of the caller beside it")
    parser.add_argument("--every", type=float, default=4, help="seconds between them")
    parser.add_argument("--batch", nargs="+", default=[], metavar="OPTION", help="for the batch beside the caller")
    parser.add_argument("--only", action="append", choices=list(_MEASURES), help="may be given several times")
    parser.add_argument("--folder", type=Path, default=_ROOT / "build/bench", help="for the model")
    return parser.parse_args()


def _print(rounds: list[Figures]) -> None:
    print("\n| | | | ratio |\n|---|---|---|---|")
    for title in dict.fromkeys(title for figures in rounds for title in figures):
        pairs = [figures[title] for figures in rounds if title in figures]
        firsts, seconds = zip(*pairs, strict=True)
        ratio = median(second / first for first, second in pairs)
        print(f"| {title} | {median(firsts):.3g} | {median(seconds):.3g} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
