"""`make bench-saturate`: a batch with this client beside saturate, which asks the gateway. See `--help`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import psutil

from ..gateway.__main__ import start_gateway
from ..path.server import Server
from .clips import KINDS, write_clips

_ROOT = Path(__file__).parents[3]
_FOLDER = _ROOT / "build/bench/saturate"
_DESCRIPTION = """
A real tritonserver with tensors of the 7B's sizes and an engine that costs next to nothing, before it the gateway.
`video-llava batch`, which decodes here and sends eight frames, and saturate 0.1.1, which sends whole files to the
gateway, ask the same question about the same clips, each in a process of its own, in turn, in an order that changes.
No cache keeps anything of a clip until it is asked about again. All share this machine's cores.
"""
_QUESTION, _MAX_TOKENS = "What happens?", 16
_CACHE_MEGABYTES = 64  # features of three clips


@dataclass(frozen=True)
class Figures:
    """What one run took: the peak memory of the client's processes; CPU a clip, of these, gateway and server."""

    clips_per_second: float
    client_bytes: int
    client_ms: float
    gateway_ms: float
    server_ms: float


@dataclass(frozen=True)
class Place:
    """Where both ask: what a run needs to know."""

    clips: Path
    num_clips: int
    triton_url: str
    gateway_url: str
    gateway: psutil.Process
    server: Server
    concurrency: int

    def batch(self, folder: Path) -> list[Any]:
        """Return the command of this client."""
        lines = ({"question": _QUESTION, "video": str(path)} for path in sorted(self.clips.glob("*.mp4")))
        (folder / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        command: list[Any] = [Path(sys.executable).with_name("video-llava"), "batch", folder / "in.jsonl"]
        command += [folder / "out.jsonl", "--url", self.triton_url, "--max-tokens", _MAX_TOKENS]
        return [*command, "--concurrency", self.concurrency]

    def saturate(self, folder: Path, *, concurrency: int) -> list[Any]:
        """Return the command of the other; `concurrency` 0 is its own choice."""
        command: list[Any] = [_FOLDER / ".venv/bin/python", Path(__file__).with_name("pump.py"), self.clips]
        return [*command, self.gateway_url, _QUESTION, _MAX_TOKENS, folder / "out", concurrency]

    def answered(self, output: str, folder: Path) -> int:
        """Return how many clips a run answered."""
        if output:
            return json.loads(output.splitlines()[0])["rows_processed"]
        records = map(json.loads, (folder / "out.jsonl").read_text().splitlines())
        return sum("text" in record for record in records)

    def measure(self, name: str) -> Figures:
        """Run one contestant."""
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            command = {
                "batch": lambda: self.batch(folder),
                "saturate": lambda: self.saturate(folder, concurrency=self.concurrency),
                "saturate, auto": lambda: self.saturate(folder, concurrency=0),
            }[name]()
            before = _cpu_seconds(self.gateway), self.server.cpu_seconds()
            run = Run.of(command)
            after = _cpu_seconds(self.gateway), self.server.cpu_seconds()
            num_answered = self.answered(run.output, folder)
            if num_answered != self.num_clips:
                raise RuntimeError(f"{name} answered {num_answered} of {self.num_clips} clips")
        spent = [run.cpu_seconds, *(one - two for one, two in zip(after, before, strict=True))]
        return Figures(num_answered / run.seconds, run.peak_bytes, *(1e3 * each / num_answered for each in spent))


@dataclass(frozen=True)
class Run:
    """What a process and its children wrote to stdout and took, seen every tenth of a second."""

    output: str
    seconds: float
    peak_bytes: int
    cpu_seconds: float

    @classmethod
    def of(cls, command: list[Any]) -> Self:
        """Run a command; CalledProcessError if it fails."""
        began, peaks, cpu_seconds = time.monotonic(), dict[int, int](), 0.0
        with tempfile.TemporaryFile("w+") as output:
            with subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.DEVNULL) as process:
                root = psutil.Process(process.pid)
                while process.poll() is None:
                    with suppress(psutil.NoSuchProcess):
                        for each in _tree(root):
                            peaks[each.pid] = max(peaks.get(each.pid, 0), peak_bytes(each))
                        cpu_seconds = max(cpu_seconds, _cpu_seconds(root))
                    time.sleep(0.1)
            seconds = time.monotonic() - began
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command[0])
            output.seek(0)
            return cls(output.read(), seconds, sum(peaks.values()), cpu_seconds)


def peak_bytes(process: psutil.Process) -> int:
    """Return the largest resident memory of a process so far; 0 if it has ended."""
    with suppress(OSError):
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
    return 0


def _tree(process: psutil.Process) -> Iterator[psutil.Process]:
    yield process
    yield from process.children(recursive=True)


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for each in _tree(process):
        with suppress(psutil.NoSuchProcess):
            total += sum(each.cpu_times()[:2])
    return total


def main() -> None:
    """Measure and print."""
    options = _options()
    kind = KINDS[options.kind]
    paths = write_clips(_FOLDER / options.kind, kind, options.clips or kind.number)
    with tempfile.TemporaryDirectory() as text:
        measured = Path(text)
        for path in paths:
            (measured / path.name).symlink_to(path)
        server = Server("this", _ROOT, _FOLDER.parent, environment=os.environ)
        with (
            server.start(cache_megabytes=_CACHE_MEGABYTES),
            start_gateway(server.url, "--cache-megabytes", "0") as (gateway, url),
        ):
            place = Place(measured, len(paths), server.url, url, gateway, server, options.concurrency)
            place.measure("batch")  # warms up
            place.measure("saturate")
            rounds = [_round(place, turn) for turn in range(options.rounds)]
            gateway_bytes = sum(map(peak_bytes, _tree(gateway)))
    size = sum(path.stat().st_size for path in paths) / len(paths)
    print(f"\n{len(paths)} clips of {size / 1e6:.1f} MB, {options.concurrency} at a time, {options.rounds} rounds")
    _print(rounds, gateway_bytes)


_NAMES = ("batch", "saturate", "saturate, auto")


def _round(place: Place, turn: int) -> dict[str, Figures]:
    found = {}
    for name in _NAMES if turn % 2 else reversed(_NAMES):
        found[name] = place.measure(name)
        print(turn, name, found[name], flush=True)
    return found


def _print(rounds: list[dict[str, Figures]], gateway_bytes: int) -> None:
    heads = ("clips/s", "batch / this", "client's peak [MB]", "batch / this", "CPU a clip [ms]: client")
    print(f"\n| | {' | '.join(heads)} | gateway | server |")
    print("|---|---|---|---|---|---|---|---|")
    for name in _NAMES:
        pairs = [(each["batch"], each[name]) for each in rounds]
        middle = {field: median(getattr(run, field) for _, run in pairs) for field in Figures.__annotations__}
        faster = median(ours.clips_per_second / run.clips_per_second for ours, run in pairs)
        smaller = median(ours.client_bytes / run.client_bytes for ours, run in pairs)
        memory = f"{middle['client_bytes'] / 1e6:.0f} | {smaller:.2f}"
        cpu = " | ".join(f"{middle[field]:.0f}" for field in ("client_ms", "gateway_ms", "server_ms"))
        print(f"| {name} | {middle['clips_per_second']:.2f} | {faster:.2f} | {memory} | {cpu} |")
    print(f"\nThe gateway and its decoding processes had {gateway_bytes / 1e6:.0f} MB at their peaks.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-saturate", description=_DESCRIPTION)
    parser.add_argument("--kind", choices=KINDS, default="web", help="of clips")
    parser.add_argument("--clips", type=int, default=0, help="how many, at most 360")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=16)
    return parser.parse_args()


if __name__ == "__main__":
    main()
