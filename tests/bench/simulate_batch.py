"""How long a batch of 100 million clips takes on 1,000 replicas, and what that depends on.

Two parts, since neither depends on the other. Shards on workers: each worker answers its shards at the rate of one
replica; a worker that is free takes the next shard, as pods of a Job do. Requests on replicas: each answers so many at
a time, in a closed loop, and the proxy's policy chooses one for each request, as Envoy's source does. Clips take
log-normal times, and those of one file have a factor in common.
"""

import argparse
import heapq
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import count

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Plan:
    """What is simulated. Rates are per hour and pod, times in seconds.

    Attributes:
        clip_seconds: Of one replica, on average: 11.1 clips/s as measured on an H100 (README.md).
        clip_sigma: Of the logarithm of clips' times.
        file_sigma: Of the logarithm of the factor that the clips of one file have in common.
        start_seconds: What a shard costs beside its clips: a pod, its connections, what has a record.
        preempted, restart_seconds: Workers; half of `part_seconds` of work is asked again, too.
        lost, load_seconds: Replicas, whose work the others take until it is back.
        slots: Requests that a replica answers at a time.
        in_flight: Requests of all workers, for each slot.
    """

    num_clips: int = 100_000_000
    num_replicas: int = 1_000
    num_files: int = 40_000
    clip_seconds: float = 0.09
    clip_sigma: float = 1.0
    file_sigma: float = 0.3
    start_seconds: float = 20.0
    preempted: float = 0.05
    restart_seconds: float = 90.0
    part_seconds: float = 30.0
    lost: float = 0.02
    load_seconds: float = 300.0
    slots: int = 16
    in_flight: float = 2.0
    seed: int = 0


def file_seconds(plan: Plan) -> tuple[Floats, float]:
    """Return the work in each file, [files], and the longest clip."""
    random = np.random.default_rng(plan.seed)
    size, chunk = plan.num_clips // plan.num_files, max(1, plan.num_files // 40)
    work, longest = [], 0.0
    for first in range(0, plan.num_files, chunk):
        number = min(chunk, plan.num_files - first)
        clips = _log_normal(random, plan.clip_sigma, (number, size)) * _log_normal(random, plan.file_sigma, (number, 1))
        longest = max(longest, plan.clip_seconds * float(clips.max()))
        work.append(plan.clip_seconds * clips.sum(axis=1))
    return np.concatenate(work), longest


def _log_normal(random: np.random.Generator, sigma: float, shape: tuple[int, ...]) -> Floats:
    """Return values with the mean 1."""
    return random.lognormal(-(sigma**2) / 2, sigma, shape)


def makespan(plan: Plan, shards: Floats, *, fails: bool = False) -> float:
    """Return when the last of these shards ends, in order, on as many workers as there are replicas."""
    random = np.random.default_rng(plan.seed + 1)
    seconds = shards + plan.start_seconds
    if fails:
        seconds = seconds / (1 - plan.lost * plan.load_seconds / 3600)
        numbers = random.poisson(plan.preempted * seconds / 3600)
        seconds = seconds + numbers * (plan.restart_seconds + plan.part_seconds / 2)
    free_at = [0.0] * plan.num_replicas
    for each in seconds.tolist():
        heapq.heapreplace(free_at, free_at[0] + each)
    return max(free_at)


def shards_of(files: Floats, number: int) -> Floats:
    """Return the work in each of `number` shards: every `number`-th file."""
    return np.array([files[index::number].sum() for index in range(number)])


def ring(num_replicas: int, min_ring_size: int) -> tuple[NDArray[np.uint64], Integers]:
    """Return the points of Envoy's ring in order, and whose they are.

    Each host has equally many, so many that all have at least `min_ring_size`. Envoy hashes by xxHash64.
    """
    points = math.ceil(min_ring_size / num_replicas)
    hosts = np.repeat(np.arange(num_replicas), points)
    hashes = np.array([_hash(f"{_address(host)}_{point}") for host in range(num_replicas) for point in range(points)])
    order = hashes.argsort()
    return hashes[order], hosts[order]


def by_ring(plan: Plan, min_ring_size: int, keys: NDArray[np.uint64]) -> Integers:
    """Return the replica for each key."""
    points, hosts = ring(plan.num_replicas, min_ring_size)
    return hosts[np.searchsorted(points, keys) % len(points)]


def by_maglev(plan: Plan, keys: NDArray[np.uint64], table_size: int = 65_537) -> Integers:
    """Return the replica for each key by Envoy's Maglev table."""
    table = np.full(table_size, -1)
    offsets, skips = (
        [int(_hash(f"{_address(host)}{kind}")) for host in range(plan.num_replicas)] for kind in ("", "skip")
    )
    walks = [
        _walk(offset % table_size, skip % (table_size - 1) + 1, table_size)
        for offset, skip in zip(offsets, skips, strict=True)
    ]
    for filled in range(table_size):
        host = filled % plan.num_replicas
        table[next(place for place in walks[host] if table[place] < 0)] = host
    return table[(keys % np.uint64(table_size)).astype(np.int64)]


def _walk(offset: int, skip: int, size: int) -> Iterator[int]:
    return ((offset + skip * step) % size for step in count())


def _address(host: int) -> str:
    return f"10.{host >> 16}.{host >> 8 & 255}.{host & 255}:8001"


def _hash(text: str) -> np.uint64:
    return np.frombuffer(blake2b(text.encode(), digest_size=8).digest(), np.uint64)[0]


Choose = Callable[[int, list[int], int], int]
"""Returns the replica for a request by its number, given how many requests each replica has, and all of them."""


def by_hash(hosts: Integers, *, balance: float = math.inf) -> Choose:
    """Return what chooses `hosts[number]`, but none with more than `balance` times its share of all requests."""
    wanted = hosts.tolist()

    def choose(number: int, active: list[int], num_active: int) -> int:
        host = wanted[number]
        most = (num_active + 1) * balance / len(active)
        if active[host] <= most:
            return host
        others = np.random.default_rng(number)  # in an order that depends on the key
        while active[host := int(others.integers(len(active)))] > most:
            pass
        return host

    return choose


def by_least_request(plan: Plan, num_requests: int) -> Choose:
    """Return what chooses the less busy of two."""
    pairs = np.random.default_rng(plan.seed).integers(plan.num_replicas, size=(num_requests, 2)).tolist()

    def choose(number: int, active: list[int], _num_active: int) -> int:
        first, second = pairs[number]
        return first if active[first] <= active[second] else second

    return choose


def throughput(plan: Plan, choose: Choose, num_requests: int) -> float:
    """Return what the replicas do in a closed loop, as a share of what they can."""
    num_active = round(plan.in_flight * plan.slots * plan.num_replicas)
    seconds = _log_normal(np.random.default_rng(plan.seed), plan.clip_sigma, (num_requests,)).tolist()
    active = [0] * plan.num_replicas
    waiting: list[deque[int]] = [deque() for _ in active]
    ends: list[tuple[float, int]] = []
    now, half_at, placed = 0.0, 0.0, 0
    num_ended = 0
    while placed < num_requests:
        if placed >= num_active:
            now, host = heapq.heappop(ends)
            active[host] -= 1
            num_ended += 1
            if waiting[host]:
                heapq.heappush(ends, (now + seconds[waiting[host].popleft()], host))
            if placed == (num_requests + num_active) // 2:
                half_at, num_ended = now, 0
        host = choose(placed, active, min(placed, num_active))
        active[host] += 1
        if active[host] <= plan.slots:
            heapq.heappush(ends, (now + seconds[placed], host))
        else:
            waiting[host].append(placed)
        placed += 1
    return num_ended / (now - half_at) / (plan.slots * plan.num_replicas)


def print_shards(plan: Plan) -> None:
    """Print what the number of shards does."""
    files, longest = file_seconds(plan)
    bound = max(files.sum() / plan.num_replicas, longest)
    print(f"No schedule takes less than {bound / 3600:.2f} h; the longest clip takes {longest:.0f} s.\n")
    heads = ("makespan [h]", "of the bound", "with failures", "a shard lost at the end: by one worker", "by all")
    print(f"| shards for a worker | {' | '.join(heads)} |")
    print("|---|---|---|---|---|---|")
    for factor in (1, 2, 4, 10, 40):
        number = factor * plan.num_replicas
        if number > plan.num_files:
            break
        shards = shards_of(files, number)
        ends, ends_with_failures = makespan(plan, shards), makespan(plan, shards, fails=True)
        again = float(shards.mean()) + plan.start_seconds
        shared = float(shards.mean()) / plan.num_replicas + plan.start_seconds
        figures = (
            ends / 3600,
            ends / bound,
            ends_with_failures / bound,
            *((ends_with_failures + x) / bound for x in (again, shared)),
        )
        print(f"| {factor} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |")


def print_policies(plan: Plan) -> None:
    """Print what the proxy's policy does."""
    num_requests = round(plan.in_flight + 8) * plan.slots * plan.num_replicas
    keys = np.random.default_rng(plan.seed).integers(2**64, size=num_requests, dtype=np.uint64)
    print(
        "\n| policy | most of a replica, of the mean | throughput | with `hash_balance_factor` 150 |\n|---|---|---|---|"
    )
    by_key = {
        f"ring hash, at least {size:,} points": partial(by_ring, plan, size) for size in (1_024, 65_536, 1_048_576)
    }
    for name, choose in (by_key | {"Maglev": partial(by_maglev, plan)}).items():
        hosts = choose(keys)
        sample = np.random.default_rng(plan.seed + 1).integers(2**64, size=10_000 * plan.num_replicas, dtype=np.uint64)
        loads = np.bincount(choose(sample), minlength=plan.num_replicas)
        rates = [throughput(plan, by_hash(hosts, balance=balance), num_requests) for balance in (math.inf, 1.5)]
        print(f"| {name} | {loads.max() / loads.mean():.2f} | " + " | ".join(f"{rate:.2f}" for rate in rates) + " |")
    rate = throughput(plan, by_least_request(plan, num_requests), num_requests)
    print(f"| least request (of two) | | {rate:.2f} | |")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in Plan.__annotations__:
        kind = type(getattr(Plan, name))
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=getattr(Plan, name))
    plan = Plan(**vars(parser.parse_args()))
    print_shards(plan)
    print_policies(plan)


if __name__ == "__main__":
    main()
