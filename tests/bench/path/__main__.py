"""`make bench-path`: what the way through Triton carries, with an engine that costs nothing. See `--help`."""

import argparse
import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median

from .load import ask_all, connect, first_token_seconds, gaps, new_video, request
from .server import Server

_ROOT = Path(__file__).parents[3]
_DESCRIPTION = """
A real tritonserver with tensors of the 7B's sizes, encoders and an engine that cost next to nothing. With
--baseline, the server of another checkout runs beside this one's, with --set one of this checkout with variables in its
environment; all are asked in turn. Prints the median of all rounds.
"""
_NUM_HELD = 16
_HOLD_SECONDS = 10
Figures = dict[str, float]


def main() -> None:
    """Measure and print."""
    options = _options()
    models: Path = options.folder
    models.mkdir(parents=True, exist_ok=True)
    # Free of this process's own environment: each server finds its own packages.
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    make = partial(Server, models=models, in_float32=options.float32)
    servers = [make("this", _ROOT, environment=environment)]
    if options.baseline:
        servers.insert(0, make("baseline", options.baseline.resolve(), environment=environment))
    if options.set:
        servers.append(make("set", _ROOT, environment=environment | dict(each.split("=") for each in options.set)))
    rounds: dict[str, list[Figures]] = {server.name: [] for server in servers}
    kinds = options.only or list(_MEASURES)
    timed = [kind for kind in kinds if kind != "memory"]
    if timed:
        with ExitStack() as stack:
            for server in servers:
                stack.enter_context(server.start(cache_megabytes=512))
            for server in servers:
                asyncio.run(_warm_up(server))
            for number in range(options.rounds):
                for kind in timed:
                    for server in servers if number % 2 == 0 else servers[::-1]:
                        figures = asyncio.run(_MEASURES[kind](server))
                        rounds[server.name].append(figures)
                        print(server.name, {name: float(f"{value:.4g}") for name, value in figures.items()}, flush=True)
    if "memory" in kinds:
        for server in servers:
            # Without the response cache, whose size is an option.
            with server.start(cache_megabytes=0):
                rounds[server.name].append(asyncio.run(_MEASURES["memory"](server)))
    _print({name: _medians(figures) for name, figures in rounds.items()})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-path", description=_DESCRIPTION)
    parser.add_argument("--baseline", type=Path, help="another checkout, in which `make .venv/.ready` was run")
    parser.add_argument("--set", nargs="+", metavar="NAME=VALUE", help="a further server of this checkout, so set")
    parser.add_argument("--float32", action="store_true", help="features in float32 instead of float16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=list(_MEASURES), help="may be given several times")
    parser.add_argument("--folder", type=Path, default=_ROOT / "build/bench", help="for the model without weights")
    return parser.parse_args()


async def _warm_up(server: Server) -> None:
    async with connect(server) as methods:
        await ask_all(methods, lambda: request(new_video(), num_tokens=1), number=24, concurrency=16)


async def _videos(server: Server) -> Figures:
    """Videos not seen before, one at a time and several; then known ones."""
    figures: Figures = {}
    async with connect(server) as methods:
        for concurrency, number in ((1, 16), (4, 40), (16, 64)):
            messages = [request(new_video(), num_tokens=1) for _ in range(number)]
            cpu, began = server.cpu_seconds(), time.perf_counter()
            answers = await ask_all(methods, iter(messages).__next__, number=number, concurrency=concurrency)
            seconds = time.perf_counter() - began
            figures[f"new videos, {concurrency} at a time [1/s]"] = number / seconds
            figures[f"new videos, {concurrency} at a time, CPU [ms]"] = 1e3 * (server.cpu_seconds() - cpu) / number
            if concurrency == 1:
                figures["new video, TTFT [ms]"] = 1e3 * first_token_seconds(answers)
        known = request(new_video(), num_tokens=1)
        await ask_all(methods, lambda: known, number=1, concurrency=1)
        answers = await ask_all(methods, lambda: known, number=24, concurrency=1)
        figures["known video, TTFT [ms]"] = 1e3 * first_token_seconds(answers)
        cpu, began = server.cpu_seconds(), time.perf_counter()
        await ask_all(methods, lambda: known, number=64, concurrency=16)
        figures["known video, 16 at a time [1/s]"] = 64 / (time.perf_counter() - began)
        figures["known video, 16 at a time, CPU [ms]"] = 1e3 * (server.cpu_seconds() - cpu) / 64
        figures["memory after them [MB]"] = server.resident_bytes() / 1e6
    return figures


async def _streams(server: Server, *, rate: int = 20, num_streams: int = 64, seconds: int = 8) -> Figures:
    """So many streams of text at a time, each of `rate` tokens a second."""
    number = rate * seconds
    async with connect(server) as methods:
        message = request(None, num_tokens=number, rate=rate)
        cpu, client, began = server.cpu_seconds(), time.process_time(), time.perf_counter()
        answers = await ask_all(methods, lambda: message, number=num_streams, concurrency=num_streams)
        wall = time.perf_counter() - began
        cpu, client = server.cpu_seconds() - cpu, time.process_time() - client
    waits = gaps(answers)
    num_tokens = sum(sum(answer.num_tokens) for answer in answers)
    num_pieces = sum(len(answer.seconds) for answer in answers)
    title = f"{num_streams} streams of {rate} tokens/s"
    return {
        f"{title}, tokens [1/s]": num_tokens / wall,
        f"{title}, responses [1/s]": num_pieces / wall,
        f"{title}, gap p50 [ms]": 1e3 * waits[len(waits) // 2],
        f"{title}, gap p99 [ms]": 1e3 * waits[int(len(waits) * 0.99)],
        f"{title}, gap max [ms]": 1e3 * waits[-1],
        f"{title}, CPU a token [us]": 1e6 * cpu / num_tokens,
        f"{title}, CPU a response [us]": 1e6 * cpu / num_pieces,
        f"{title}, client's CPU [s]": client,
    }


async def _fast_streams(server: Server) -> Figures:
    return await _streams(server, rate=200, seconds=4)


async def _memory(server: Server) -> Figures:
    """Memory that the first of many requests at a time and each further one take, while the engine holds them all."""
    async with connect(server) as methods:
        await ask_all(methods, lambda: request(new_video(), num_tokens=1), number=2, concurrency=1)
        idle = server.resident_bytes()
        message = [request(new_video(), num_tokens=_HOLD_SECONDS, rate=1) for _ in range(_NUM_HELD)]
        asking = asyncio.create_task(ask_all(methods, iter(message).__next__, number=_NUM_HELD, concurrency=_NUM_HELD))
        peak = idle
        while not asking.done():
            await asyncio.sleep(0.1)
            peak = max(peak, await asyncio.to_thread(server.resident_bytes))
        await asking
    return {
        "memory without requests [MB]": idle / 1e6,
        f"memory a request, {_NUM_HELD} at a time [MB]": (peak - idle) / _NUM_HELD / 1e6,
    }


_MEASURES = {"videos": _videos, "streams": _streams, "fast streams": _fast_streams, "memory": _memory}


def _medians(rounds: Sequence[Figures]) -> Figures:
    names = dict.fromkeys(name for figures in rounds for name in figures)
    return {name: median(figures[name] for figures in rounds if name in figures) for name in names}


def _print(columns: Mapping[str, Figures]) -> None:
    names = list(columns)
    print("| | " + " | ".join([*names, "ratio"][: None if len(names) > 1 else 1]) + " |")
    print("|---" * (len(names) + (2 if len(names) > 1 else 1)) + "|")
    for figure in columns[names[-1]]:
        values = [columns[name][figure] for name in names]
        ratio = [f"{values[-1] / values[0]:.2f}"] if len(values) > 1 else []
        print(f"| {figure} | " + " | ".join([*(f"{value:.4g}" for value in values), *ratio]) + " |")


if __name__ == "__main__":
    main()
