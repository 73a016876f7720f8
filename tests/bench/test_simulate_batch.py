"""The simulation of a batch: its laws at a small scale."""

import numpy as np
import pytest

from . import simulate_batch as simulation

PLAN = simulation.Plan(num_clips=400_000, num_replicas=20, num_files=800, start_seconds=0.0)


def test_no_schedule_beats_the_bound_and_more_shards_come_closer():
    files, longest = simulation.file_seconds(PLAN)
    assert files.sum() == pytest.approx(PLAN.num_clips * PLAN.clip_seconds, rel=0.05)
    bound = max(files.sum() / PLAN.num_replicas, longest)
    few, many = (simulation.makespan(PLAN, simulation.shards_of(files, 20 * factor)) for factor in (1, 20))
    assert bound <= many < few
    assert simulation.makespan(PLAN, simulation.shards_of(files, 20), fails=True) >= few


def test_a_ring_has_the_points_that_envoy_gives_it():
    for num_replicas, min_ring_size, size in ((1_000, 1_024, 2_000), (3, 1_024, 1_026), (10, 1_000, 1_000)):
        points, hosts = simulation.ring(num_replicas, min_ring_size)
        assert (np.bincount(hosts) == size / num_replicas).all()
        assert (np.diff(points) > 0).all()


def test_few_points_on_a_ring_cost_throughput_which_the_balance_factor_gives_back():
    keys = np.random.default_rng(0).integers(2**64, size=10_000, dtype=np.uint64)
    hosts = simulation.by_ring(PLAN, 40, keys)
    alone, balanced = (simulation.throughput(PLAN, simulation.by_hash(hosts, balance=x), 10_000) for x in (np.inf, 1.5))
    least = simulation.throughput(PLAN, simulation.by_least_request(PLAN, 10_000), 10_000)
    assert alone < balanced < least


def test_maglev_gives_each_replica_its_share():
    keys = np.random.default_rng(0).integers(2**64, size=100_000, dtype=np.uint64)
    loads = np.bincount(simulation.by_maglev(PLAN, keys))
    assert loads.max() / loads.mean() < 1.1
