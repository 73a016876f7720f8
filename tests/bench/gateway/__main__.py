"""`make bench-gateway`: what the gateway costs beside the gRPC client. See `--help`."""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import psutil
from deploy.gateway.hostile import Hostility
from support.waiting import wait_until
from video_llava_client import AsyncVideoLlava

from ..path.server import Server
from .callers import Ask, Question, ask_all, by_gateway, by_grpc

T = TypeVar("T")
_ROOT = Path(__file__).parents[3]
_DESCRIPTION = """
A real tritonserver with tensors of the 7B's sizes and an engine that costs next to nothing, or one that runs already
(--url); before it the gateway. The gRPC client and the gateway are asked in turn, and so is the gateway without and
with broken uploads beside. Prints medians of all rounds, and the median of each round's ratio.
"""
_SESSIONS, _STREAMS = 16, 64
# Of a stream; slower than the 7B's on one GPU.
_RATE = 20


@dataclass(frozen=True)
class Place:
    """What is measured.

    Attributes:
        client: Of the server.
        url: Of the gateway.
        process: The gateway's.
        size: Of frames, in pixels.
    """

    client: AsyncVideoLlava
    url: str
    process: psutil.Process
    size: int

    def asks(self, number: int, *, num_tokens: int, rate: int = _RATE) -> tuple[list[Ask], list[Ask]]:
        """Return what asks about new frames, by gRPC and by the gateway."""
        questions = [Question.new(self.size, num_tokens=num_tokens, rate=rate) for _ in range(number)]
        return [by_grpc(self.client, each) for each in questions], [by_gateway(self.url, each) for each in questions]

    def cpu_seconds(self) -> float:
        """Of the gateway and its decoding processes."""
        tree = (self.process, *self.process.children(recursive=True))
        return sum(sum(each.cpu_times()[:2]) for each in tree)


# Of the gRPC client, or without what is measured; and with it.
Pair = tuple[float, float]
Figures = dict[str, Pair]


async def _first_token(place: Place, turn: int) -> Figures:
    """Time to the first token, one request at a time."""
    new, known = [], []
    for number, asks in enumerate(zip(*place.asks(24, num_tokens=1, rate=0), strict=True)):
        for pairs in (new, known):
            pairs.append(await _in_turn(number + turn, *map(_first_of, asks)))
    return {"TTFT, new frames [ms]": _medians(new), "TTFT, known frames [ms]": _medians(known)}


def _first_of(ask: Ask) -> Callable[[], Awaitable[float]]:
    async def first() -> float:
        return 1e3 * (await ask()).first

    return first


async def _throughput(place: Place, turn: int) -> Figures:
    """Requests a second with new frames, several at a time."""
    figures: Figures = {}
    for rate, num_tokens in ((_RATE, 32), (10 * _RATE, 64)):
        asks = place.asks(4 * _SESSIONS, num_tokens=num_tokens, rate=rate)
        title = f"{_SESSIONS} sessions, {num_tokens} tokens, {rate} a second [requests/s]"
        figures[title] = await _in_turn(turn, *map(_requests_a_second, asks))
    return figures


def _requests_a_second(asks: list[Ask]) -> Callable[[], Awaitable[float]]:
    async def measure() -> float:
        began = time.perf_counter()
        await ask_all(asks, _SESSIONS)
        return len(asks) / (time.perf_counter() - began)

    return measure


async def _streams(place: Place, _turn: int) -> Figures:
    """CPU of the gateway for each token of many streams."""
    num_tokens = 8 * _RATE
    _, (ask,) = place.asks(1, num_tokens=num_tokens)
    await ask()
    before = place.cpu_seconds()
    await ask_all([ask] * _STREAMS, _STREAMS)
    spent = 1e3 * (place.cpu_seconds() - before) / (_STREAMS * num_tokens)
    return {f"{_STREAMS} streams, CPU of the gateway a token [ms]": (0.0, spent)}


async def _hostile(place: Place, turn: int) -> Figures:
    """The answers of others, without and with broken uploads beside."""

    async def measure(*, is_attacked: bool) -> tuple[float, float]:
        _, asks = place.asks(48, num_tokens=16, rate=5 * _RATE)
        async with asyncio.TaskGroup() as group:
            hostility = Hostility(place.url)
            attack = group.create_task(hostility.run()) if is_attacked else None
            answers = await ask_all(asks, 2)
            if attack:
                attack.cancel()
                print(f"{hostility.num_sent} broken uploads beside, statuses {dict(hostility.statuses)}", flush=True)
        return 1e3 * median(each.first for each in answers), 1e3 * median(each.whole for each in answers)

    memory = _peak_bytes(place.process)
    (first, whole), (first_attacked, whole_attacked) = await _in_turn(
        turn, lambda: measure(is_attacked=False), lambda: measure(is_attacked=True)
    )
    return {
        "beside broken uploads, TTFT [ms]": (first, first_attacked),
        "beside broken uploads, whole answer [ms]": (whole, whole_attacked),
        "peak memory of the gateway, before and after [MB]": (memory / 1e6, _peak_bytes(place.process) / 1e6),
    }


def _peak_bytes(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


async def _in_turn(turn: int, first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[T]]) -> tuple[T, T]:
    """Return the results of both; every second turn the other one runs first."""
    if turn % 2:
        later = await second()
        return await first(), later
    return await first(), await second()


def _medians(pairs: list[Pair]) -> Pair:
    firsts = [first for first, _ in pairs]
    return median(firsts), median(firsts) + median(b - a for a, b in pairs)


_MEASURES = {"ttft": _first_token, "throughput": _throughput, "streams": _streams, "hostile": _hostile}


def main() -> None:
    """Measure and print."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        url = options.url
        if not url:
            server = Server("this", _ROOT, options.folder, environment=os.environ)
            url = stack.enter_context(server.start(cache_megabytes=512)).url
        process, gateway = stack.enter_context(start_gateway(url))
        rounds = asyncio.run(_measure(url, gateway, process, options))
    _print(rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-gateway", description=_DESCRIPTION)
    parser.add_argument("--url", help="gRPC address of a server that runs, instead of one with the engine's stand-in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(_MEASURES), help="may be given several times")
    parser.add_argument("--folder", type=Path, default=_ROOT / "build/bench", help="for the model without weights")
    return parser.parse_args()


@contextmanager
def start_gateway(triton: str, *options: str) -> Iterator[tuple[psutil.Process, str]]:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [Path(sys.executable).with_name("video-llava-gateway"), "serve", "--port", "0", "--url", triton]
        command += ["--files-dir", Path(folder) / "files", *options]
        with log.open("w") as output:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=output)
        try:
            running = re.compile(r"running on (\S+)")
            wait_until(lambda: running.search(log.read_text()) is not None)
            yield psutil.Process(process.pid), running.findall(log.read_text())[0]
        finally:
            process.kill()
            process.wait()


async def _measure(triton: str, gateway: str, process: psutil.Process, options: argparse.Namespace) -> list[Figures]:
    rounds: list[Figures] = []
    async with AsyncVideoLlava(triton) as client:
        limits = (await client.info()).limits
        assert limits
        place = Place(client, gateway, process, limits.image_size)
        for asks in place.asks(16, num_tokens=1, rate=0):
            await ask_all(asks, 8)  # warms up
        for turn in range(options.rounds):
            for name in options.only or _MEASURES:
                rounds.append(await _MEASURES[name](place, turn))
                print({title: tuple(float(f"{x:.4g}") for x in pair) for title, pair in rounds[-1].items()}, flush=True)
    return rounds


def _print(rounds: list[Figures]) -> None:
    print("\n| | gRPC, or without | gateway, or with | difference | ratio |\n|---|---|---|---|---|")
    for title in dict.fromkeys(title for figures in rounds for title in figures):
        pairs = [figures[title] for figures in rounds if title in figures]
        firsts, seconds = zip(*pairs, strict=True)
        ratio = f"{median(b / a for a, b in pairs):.2f}" if all(firsts) else ""
        difference = median(b - a for a, b in pairs)
        print(f"| {title} | {median(firsts):.4g} | {median(seconds):.4g} | {difference:.3g} | {ratio} |")


if __name__ == "__main__":
    main()
