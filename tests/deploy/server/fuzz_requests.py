"""Sends the request parser what nobody should, in child processes: `make fuzz-requests`.

Each case must be refused with `InvalidArgument`, or accepted and mean what it says; a crash, another error, a hang or
too much memory fails the run. A failure names its property and seed: `--property NAME --seed N --cases M` repeats it.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings

sys.path.insert(0, str(Path(__file__).parents[2]))
from support.request_properties import PROPERTIES

MAX_MEMORY_BYTES = 12 * 2**30  # of addresses; torch's and vLLM's libraries take most of it
CASE_SECONDS = 60  # the first one's in which vLLM is imported included
BATCH = 5000


def run(name: str, num_cases: int, *, seed: int | None = None, verbose: bool = False) -> collections.Counter[str]:
    """Check a property on `num_cases` cases, the same ones for the same seed; return how many came to what.

    Raises what the property raised, for the smallest case that was found.
    """
    strategy, check = PROPERTIES[name]
    outcomes: collections.Counter[str] = collections.Counter()

    @settings(
        max_examples=num_cases,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        derandomize=seed is None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(strategy)
    def test(case: Any) -> None:
        if verbose:
            print(ascii(case)[:1000], flush=True)
        outcomes["seen"] += 1
        outcomes[check(case)] += 1
        if seed is not None:
            end_if_it_hangs()

    (test if seed is None else hypothesis.seed(seed)(test))()
    return outcomes


def end_if_it_hangs() -> None:
    """Let this process end, with a traceback of where it is, unless this is called again in time."""
    faulthandler.dump_traceback_later(CASE_SECONDS, exit=True)


def child(name: str, num_cases: int, seed: int, *, verbose: bool) -> None:
    """Check in this process, with bounded memory; print the outcomes as JSON."""
    faulthandler.enable()
    end_if_it_hangs()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    print(json.dumps(run(name, num_cases, seed=seed, verbose=verbose)))


def start_child(name: str, num_cases: int, seed: int) -> tuple[collections.Counter[str], str]:
    """Run a child; return its outcomes and, if it failed, what it said."""
    options = ["--property", name, "--seed", str(seed), "--cases", str(num_cases)]
    command = [sys.executable, "-W", "ignore", __file__, "--child", *options]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        said = process.stderr[-4000:]
        return collections.Counter(), f"{' '.join(options)}: exit code {process.returncode}\n{said}"
    return collections.Counter(json.loads(process.stdout.splitlines()[-1])), ""


def batches(names: list[str], num_cases: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """Yield the property, the number of cases and the seed of each child."""
    for name in names:
        share = num_cases // len(names)
        for number, start in enumerate(range(0, share, BATCH)):
            yield name, min(BATCH, share - start), seed + number


def main() -> None:
    """Run the cases and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100_000, help="over all properties (default: %(default)s)")
    parser.add_argument("--property", choices=PROPERTIES, help="one instead of all")
    parser.add_argument("--seed", type=int, default=6)
    parser.add_argument("--verbose", action="store_true", help="print each case before it is tried; in this process")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    names = [arguments.property] if arguments.property else list(PROPERTIES)
    if arguments.child or arguments.verbose:
        child(names[0], arguments.cases, arguments.seed, verbose=arguments.verbose)
        return
    started = time.monotonic()
    totals = {name: collections.Counter[str]() for name in names}
    failures = []
    with ThreadPoolExecutor(2) as pool:
        work = list(batches(names, arguments.cases, arguments.seed))
        results = pool.map(start_child, *zip(*work, strict=True))
        for (name, *_), (outcomes, failure) in zip(work, results, strict=True):
            totals[name].update(outcomes)
            failures += [failure] if failure else []
    for name, outcomes in totals.items():
        print(f"{name:<10} {dict(outcomes)}")
    print(f"{sum(outcomes['seen'] for outcomes in totals.values())} cases in {time.monotonic() - started:.0f} s")
    print("\n\n".join(failures), file=sys.stderr)
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
