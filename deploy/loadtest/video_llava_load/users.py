"""Locust's users, and the shape of their number over time.

Open loop: a user is a source of one arrival a second, at random times; a rate of 6.5 is seven sources, each of whose
arrivals is kept with a chance of 6.5 / 7. Many Poisson processes together are one, and one thinned out is one still, so
this is Poisson at exactly the rate wanted, at each moment of a ramp. What arrives does not wait for what came before.

Closed loop: a user is a caller who waits for the answer, thinks, and asks again.
"""

from __future__ import annotations

import math
import os
import random
from typing import TYPE_CHECKING, Any, Protocol

import gevent
from gevent.event import Event

# Else `import locust` replaces Python's threads and sockets by gevent's in the whole process; see portal.py.
os.environ["LOCUST_SKIP_MONKEY_PATCH"] = "1"

from locust import LoadTestShape, User, task

from .scenario import Scenario

if TYPE_CHECKING:
    from locust.env import Environment

_MAX_SPAWN_RATE = 100.0  # a second; Locust warns of more


class Arrivals(Protocol):
    """What users need of a run."""

    random: random.Random

    def arrive(self) -> Event:
        """Let the next caller come; return what is set when it has its answers."""
        ...

    def keeps_arrival(self) -> bool:
        """Whether a source's arrival is kept at this moment's rate."""
        ...

    def think_seconds(self) -> float:
        """How long a caller thinks."""
        ...


class LoadUser(User):
    """What both have in common."""

    abstract = True

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.arrivals: Arrivals = environment.arrivals  # pyright: ignore[reportAttributeAccessIssue]


class Source(LoadUser):
    """Open loop: one arrival a second, at random times."""

    @task
    def arrive(self) -> None:
        """Wait for the next arrival, and let it come."""
        gevent.sleep(self.arrivals.random.expovariate(1.0))
        if self.arrivals.keeps_arrival():
            self.arrivals.arrive()


class ClosedLoopCaller(LoadUser):
    """Closed loop: asks, waits for the answer, thinks."""

    @task
    def ask(self) -> None:
        """Ask once."""
        self.arrivals.arrive().wait()
        gevent.sleep(self.arrivals.think_seconds())


class Phases(LoadTestShape):
    """The phases of a scenario as Locust asks for them, about once a second."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()
        self._scenario = scenario

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are to be, and how many may come or go a second; None at the end."""
        seconds = self.get_run_time()
        if seconds >= self._scenario.seconds:
            return None
        num_users = num_sources(self._scenario) if self._scenario.is_open else round(self._scenario.level_at(seconds))
        return num_users, min(_MAX_SPAWN_RATE, max(1.0, float(num_users)))


def num_sources(scenario: Scenario) -> int:
    """Return how many sources make the highest rate of an open loop."""
    return math.ceil(max(max(phase.level) for phase in scenario.phases))


def user_class(scenario: Scenario) -> type[Any]:
    """Return the kind of users that the scenario has."""
    return Source if scenario.is_open else ClosedLoopCaller
