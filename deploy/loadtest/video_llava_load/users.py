"""Locust's users, and how many there are over time.

Open loop: a user is a source of one Poisson arrival per second. A rate of 6.5 is seven sources, each of whose arrivals
is kept with probability 6.5 / 7. The sum of Poisson processes is one, and so is a thinned one: arrivals are Poisson at
exactly the wanted rate, at each moment of a ramp.

Closed loop: a user is a caller who waits for the answer, thinks, and asks again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import gevent

# Otherwise `import locust` replaces Python's threads and sockets by gevent's in the whole process.
os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"

from locust import LoadTestShape, User, task

from .scenario import Scenario

if TYPE_CHECKING:
    from .load import Load

_MAX_SPAWN_RATE = 100.0  # per second; Locust warns above it


class Source(User):
    """Open loop: one arrival per second, at random times."""

    abstract = True
    load: Load

    @task
    def arrive(self) -> None:
        """Wait for the next arrival and start its requests."""
        gevent.sleep(self.load.random.expovariate(1.0))
        if self.load.keeps_arrival():
            self.load.arrive()


class ClosedLoopCaller(User):
    """Closed loop: asks, waits for the answer, thinks."""

    abstract = True
    load: Load

    @task
    def ask(self) -> None:
        """Ask once."""
        self.load.arrive().wait()
        gevent.sleep(self.load.random.uniform(*self.load.scenario.requests.think_seconds))


class Phases(LoadTestShape):
    """The phases of a scenario; Locust asks about once a second."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self._scenario = scenario

    def tick(self) -> tuple[int, float] | None:
        """Return the number of users and how many may start or stop per second; None at the end."""
        seconds = self.get_run_time()
        if seconds >= self._scenario.seconds:
            return None
        num_users = self._scenario.num_sources if self._scenario.is_open else round(self._scenario.level_at(seconds))
        return num_users, min(_MAX_SPAWN_RATE, max(1.0, float(num_users)))


def user_class(load: Load) -> type[Any]:
    """Return the class of users for the scenario of `load`."""
    base = Source if load.scenario.is_open else ClosedLoopCaller
    return type(base.__name__, (base,), {"load": load})
