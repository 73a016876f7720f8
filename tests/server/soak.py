"""A real server under mixed load for minutes: `make soak`, `make soak SECONDS=60`.

Callers ask well, leave, come too late and are wrong (support/traffic.py). At the end: no error that nobody provoked,
counters that add up, memory, shared memory, threads and files that do not grow, nothing in flight, a clean stop.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from support import slow_steps
from support.export import FREE_PORTS, export, make_random_checkpoint
from support.resources import Usage, growth, measure, process_tree, shared_files
from support.traffic import Outcome, Tally, Traffic
from support.triton import metrics, metrics_page
from video_llava_client import AsyncVideoLlava, VideoLlava
from video_llava_serve import LocalServer

# Small enough to be full, hence constant, after the warm-up.
KV_CACHE_BYTES = 2**26
CACHE_MEGABYTES = 16
MEASURE_SECONDS = 2.0
ROW_SECONDS = 30.0
WARM_UP = 0.3
"""Share of the time after which nothing may grow any more."""

MAX_GROWTH = {
    "resident_bytes": 0.04,
    "shared_bytes": 0.04,
    "num_threads": 0.02,
    "num_files": 0.04,
    "num_processes": 0.02,
}
"""What the fitted line may rise from the warm-up to the end, as a share of the mean."""

GAUGES = ("vllm:num_requests_running{vicuna}", "vllm:num_requests_waiting{vicuna}", "vllm:kv_cache_usage_perc{vicuna}")
SUCCEEDED = "nv_inference_request_success{video_llava}"
FAILED = "nv_inference_request_failure{video_llava}"
GENERATED = "vllm:generation_tokens_total{vicuna}"


@dataclasses.dataclass
class Check:
    """One thing that must hold at the end."""

    name: str
    passed: bool
    found: str


class Soak:
    """The run: traffic, measurements every few seconds, a row of the table every half minute."""

    def __init__(self, server: LocalServer, *, seconds: float, num_callers: int, seed: int) -> None:
        self.usages: list[Usage] = []
        self.tally = Tally()
        self.metrics = ""
        self.died = False
        self._server = server
        self._seconds = seconds
        self._num_callers = num_callers
        self._seed = seed
        self._started = time.monotonic()

    async def run(self) -> None:
        self._started = time.monotonic()
        async with AsyncVideoLlava(self._server.grpc_url) as client:
            traffic = Traffic(client, self._server.grpc_url, seed=self._seed)
            self.tally = traffic.tally
            watching = asyncio.create_task(self._watch())
            await traffic.run(num_callers=self._num_callers, until_seconds=self._started + self._seconds)
            watching.cancel()
            await asyncio.wait([watching])
            assert self.died or watching.cancelled(), watching.exception()
        self._print_row()

    async def _watch(self) -> None:
        print(HEADER, flush=True)
        next_row = ROW_SECONDS
        while True:
            try:
                self.usages.append(await asyncio.to_thread(measure, self._server.pid))
            except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                # A short-lived child may end while it is looked at, by psutil or in /proc.
                self.died = not psutil.pid_exists(self._server.pid)
                if self.died:
                    return
            if time.monotonic() - self._started >= next_row:
                next_row += ROW_SECONDS
                self._print_row()
            await asyncio.sleep(MEASURE_SECONDS)

    def _print_row(self) -> None:
        tally, usage = self.tally, self.usages[-1]
        seconds = time.monotonic() - self._started
        first_token = statistics.median(tally.first_token_seconds[-500:] or [0])
        cells = (
            f"{seconds:.0f}",
            tally.sent,
            *(tally.outcomes[outcome] for outcome in Outcome),
            len(tally.failures),
            f"{tally.sent / seconds:.1f}",
            f"{tally.num_tokens / seconds:.0f}",
            f"{first_token * 1000:.0f}",
            f"{usage.resident_bytes / 1e6:.0f}",
            f"{usage.shared_bytes / 1e6:.1f}",
            f"{usage.ring_bytes / 1e6:.1f}",
            usage.num_threads,
            usage.num_files,
        )
        print(row(*cells), flush=True)


COLUMNS = (
    "seconds",
    "sent",
    *Outcome,
    "failed",
    "req/s",
    "tokens/s",
    "TTFT ms",
    "RSS MB",
    "shm MB",
    "ring MB",
    "threads",
    "files",
)


def row(*cells: object) -> str:
    """Return cells as a line of the table."""
    return "  ".join(f"{cell!s:>{len(column)}}" for cell, column in zip(cells, COLUMNS, strict=True))


HEADER = row(*COLUMNS)


def checks_of_load(tally: Tally) -> Iterator[Check]:
    """What the callers must have seen."""
    yield Check("no error that was not provoked", not tally.failures, f"{len(tally.failures)} failures")
    ended = sum(tally.outcomes.values())
    parts = " + ".join(f"{tally.outcomes[outcome]} {outcome}" for outcome in Outcome)
    yield Check("sent = answered + refused + cancelled + expired", tally.sent == ended, f"{tally.sent} = {parts}")
    yield Check("every outcome came", all(tally.outcomes[outcome] for outcome in Outcome), parts)


def checks_of_counters(tally: Tally, before: dict[str, float], after: dict[str, float]) -> Iterator[Check]:
    """What the server counted of the same."""
    grown = {name: after[name] - before.get(name, 0) for name in after}
    yield Check("nothing in flight at the end", not in_flight(after), f"{in_flight(after)}")
    answered, refused = tally.outcomes[Outcome.ANSWERED], tally.outcomes[Outcome.REFUSED]
    # Who left may have been answered all the same. One failure is counted for each step that ended with it.
    left = tally.outcomes[Outcome.CANCELLED] + tally.outcomes[Outcome.EXPIRED]
    found = f"{grown[SUCCEEDED]:.0f} of {answered} answered and {left} left"
    yield Check("Triton counts the answered as successes", answered <= grown[SUCCEEDED] <= answered + left, found)
    found = f"{grown[FAILED]:.0f} of {refused} refused and {left} left"
    yield Check("Triton counts the refused as failures", grown[FAILED] >= refused / 2, found)
    found = f"{tally.num_tokens} in answers, {grown[GENERATED]:.0f} generated"
    yield Check("the engine made the tokens of the answers", grown[GENERATED] >= tally.num_tokens, found)


def checks_of_growth(usages: list[Usage]) -> Iterator[Check]:
    """What must stay as it is once everything was touched."""
    warm = usages[int(len(usages) * WARM_UP) :]
    for field, share in MAX_GROWTH.items():
        mean, rise = growth(warm, field)
        seconds = warm[-1].at_seconds - warm[0].at_seconds
        found = f"mean {mean:,.0f}, rise {rise:+,.0f} ({rise / mean:+.1%}) in {seconds:.0f} s"
        yield Check(f"{field} grows by no more than {share:.0%}", rise <= share * mean, found)


def in_flight(counters: dict[str, float]) -> dict[str, float]:
    """Return the gauges of what waits or runs that are not 0."""
    return {
        name: value
        for name, value in counters.items()
        if value and (name.startswith("nv_inference_pending") or name in GAUGES)
    }


def wait_idle(server: LocalServer) -> dict[str, float]:
    """Wait, half a minute at most, until nothing is in flight; return the counters then."""
    deadline = time.monotonic() + 30
    while True:
        time.sleep(0.5)  # the counters follow the engine by a tenth of a second
        counters = metrics(server.metrics_url)
        if not in_flight(counters) or time.monotonic() > deadline:
            return counters


def soak(model: Path, arguments: argparse.Namespace) -> tuple[Soak, list[Check]]:
    """Run it all on a server of its own."""
    with LocalServer(
        model=model,
        overlay=slow_steps.OVERLAY,
        engine_arguments=slow_steps.ENGINE_ARGUMENTS | {"kv_cache_memory_bytes": KV_CACHE_BYTES},
        **FREE_PORTS,
        cache_megabytes=CACHE_MEGABYTES,
        report=print,
        log_path=arguments.json.with_suffix(".log"),
    ) as server:
        with VideoLlava(server.grpc_url) as client:
            client.probe(media=True)
        before = wait_idle(server)
        run = Soak(server, seconds=arguments.seconds, num_callers=arguments.callers, seed=arguments.seed)
        asyncio.run(run.run())
        checks = [*checks_of_load(run.tally), Check("every process lived", not run.died, str(server.log_path))]
        if run.died:
            return run, checks
        checks += [*checks_of_counters(run.tally, before, wait_idle(server)), *checks_of_growth(run.usages)]
        run.metrics = metrics_page(server.metrics_url)
        processes = process_tree(server.pid)
        files = shared_files(processes)
    return run, checks + list(checks_of_the_stop(server, processes, files))


def checks_of_the_stop(server: LocalServer, processes: list[psutil.Process], files: set[Path]) -> Iterator[Check]:
    """What must be left of a stopped server: nothing."""
    yield Check("it stopped by itself, in time", server.stopped_cleanly, f"{server.stopped_cleanly}")
    left = [process.pid for process in processes if process.is_running()]
    yield Check("no process is left", not left, f"{left}")
    left_files = [str(file) for file in files if file.exists()]
    yield Check("no shared memory is left", not left_files, f"{left_files}")


def report(run: Soak, checks: list[Check]) -> dict[str, Any]:
    """Return all that is known, for the JSON."""
    return {
        "tally": vars(run.tally),
        "usages": [dataclasses.asdict(usage) for usage in run.usages],
        "checks": [dataclasses.asdict(check) for check in checks],
        "metrics": run.metrics.splitlines(),
    }


def main() -> None:
    """Run, print the verdict, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600, help="how long (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=12, help="at the same time (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--json", type=Path, default=Path("build/soak.json"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        model = export(make_random_checkpoint(Path(folder, "checkpoint")), Path(folder))
        run, checks = soak(model, arguments)
    for failure in run.tally.failures:
        print(failure, file=sys.stderr)
    print("  ".join(f"{name}: {count}" for name, count in run.tally.calls.most_common()))
    for check in checks:
        print(f"{'ok    ' if check.passed else 'FAILED'}  {check.name}: {check.found}")
    arguments.json.write_text(json.dumps(report(run, checks), indent=1), encoding="utf-8")
    print(f"Written: {arguments.json}")
    sys.exit(not all(check.passed for check in checks))


if __name__ == "__main__":
    main()
