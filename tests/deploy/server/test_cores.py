"""What sending may take: the cores that are idle, up to a container's limit."""

import pytest
from video_llava_server import cores


@pytest.fixture
def measure(monkeypatch):
    """Return `measure(limit, idle, used, engine)`: the free cores of four, after a second with such CPU times."""

    def measure(limit, *rates, lags=(0.0,)):
        monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
        monkeypatch.setattr(cores, "_limit", lambda: limit)
        free = cores.FreeCores(iter(lags).__next__)
        measured = 0.0
        for second in range(10, 11 + len(lags)):
            monkeypatch.setattr(cores.time, "monotonic", lambda second=second: second)
            idle, used, engine = (rate * second for rate in rates)
            monkeypatch.setattr(free, "_idle_seconds", lambda idle=idle: idle)
            monkeypatch.setattr(free, "_engine_seconds", lambda engine=engine: engine)
            monkeypatch.setattr(cores, "_used_seconds", lambda used=used: used)
            measured = free.measure()
        return measured

    return measure


def test_free_cores_are_the_idle_ones(measure):
    assert measure(None, 0.5, 0.0, 3.0) == pytest.approx(0.5)


def test_an_idle_engine_leaves_some_of_a_core_to_whoever_else_works(measure):
    assert measure(None, 0.0, 0.0, 0.1) == pytest.approx(0.4)
    assert measure(None, 0.9, 0.0, 0.1) == pytest.approx(0.9)


def test_an_event_loop_that_is_late_gets_what_an_idle_engine_leaves(measure):
    assert measure(None, 0.0, 0.0, 0.1, lags=[0.1] * 10) < 0.05
    assert measure(None, 0.0, 0.0, 0.1, lags=[0.1] * 10 + [0.0] * 10) == pytest.approx(0.4)


def test_a_containers_limit_leaves_no_more_than_itself(measure):
    assert measure(2.0, 3.0, 1.75, 1.5) == pytest.approx(0.25)


def test_real_counters_are_read():
    free = cores.FreeCores(float)
    assert free.measure() == 0.0
    free._last = (0.0, 0.0, 0.0, 0.0)
    assert free.measure() >= 0
