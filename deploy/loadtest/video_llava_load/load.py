"""One run: Locust's runner, its statistics and its web page around the scenario."""

from __future__ import annotations

import logging
import random
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import gevent
from gevent.event import Event
from video_llava_client import OptionError, ServerInfo

from .plan import Planner
from .portal import Portal
from .requests import ANSWERED, FAILED, UNFINISHED, Record
from .scenario import Scenario
from .users import Phases, num_sources, user_class

# After users.py, which tells it not to patch Python.
from locust.env import Environment  # isort: skip
from locust.stats import stats_history  # isort: skip

# How long the runner may take beyond its phases: Locust looks about once a second.
_GRACE_SECONDS = 10.0
_LOOK_SECONDS = 0.2
# The server's counters follow its answers: those to what made videos warm must not fall into the run.
_SETTLE_SECONDS = 0.5


@dataclass
class Run:
    """What has happened.

    Attributes:
        scenario: What was to.
        server: What was asked.
        started: When, in seconds since 1970.
        records: The requests, in the order in which they ended, those of warm-ups included.
        interrupted: Whether it was ended before its time.
    """

    scenario: Scenario
    server: ServerInfo
    started: float
    records: list[Record] = field(default_factory=list)
    interrupted: bool = False

    @property
    def measured(self) -> list[Record]:
        """The requests that were due in phases that count."""
        return [record for record in self.records if not self.phase_of(record).warmup]

    def phase_of(self, record: Record) -> Any:
        """Return the phase in which a request was due."""
        return self.scenario.phases[self.scenario.phase_at(record.due)[0]]


class Load:
    """A connected scenario: `run` it, or let people on Locust's web page start and stop its users.

    Made by `connected`. It is what Locust's users ask (`users.Arrivals`).
    """

    def __init__(self, scenario: Scenario, portal: Portal, server: ServerInfo) -> None:
        self.scenario = scenario
        self.random = random.Random(scenario.seed)
        self.outcome = Run(scenario, server, time.time())
        self._planner = Planner(scenario.mix, scenario.requests, seed=scenario.seed)
        self._portal = portal
        self._follows_phases = True
        self._environment: Any = None

    def arrive(self) -> Event:
        """Let the next caller come; return what is set when it has its answers."""
        return self._portal.submit(self._planner.next())

    def keeps_arrival(self) -> bool:
        """Whether a source's arrival is kept at this moment's rate; on the web page, all are."""
        if not self._follows_phases:
            return True
        rate = self.scenario.level_at(self._portal.now)
        return self.random.random() * num_sources(self.scenario) < rate

    def think_seconds(self) -> float:
        """Return how long a caller of a closed loop thinks."""
        return self.random.uniform(*self.scenario.requests.think_seconds)

    def take(self, record: Record) -> None:
        """Keep a request that has ended, and tell Locust."""
        self.outcome.records.append(record)
        if self._environment is not None:
            _tell_locust(self._environment, record)

    def run(
        self,
        *,
        web_port: int | None = None,
        on_begin: Callable[[], None] = lambda: None,
        on_look: Callable[[Load], None] = lambda _: None,
    ) -> Run:
        """Go through the phases, then wait for what is under way.

        Args:
            web_port: Where Locust's page shows it meanwhile, on this machine; None for no page.
            on_begin: Called before the first arrival, when what is to be warm is.
            on_look: Called a few times a second.

        Raises:
            ServerError: The server does not answer about the videos that are to be warm.
            OptionError: The port is taken.
        """
        with self._locust(web_port, Phases(self.scenario)) as environment:
            self._prime()
            gevent.sleep(_SETTLE_SECONDS)
            on_begin()
            self._begin()
            environment.runner.start_shape()
            self._watch(environment.runner, on_look)
            environment.runner.stop()
            self._portal.drain(self.scenario.drain_seconds, cut_short=lambda: self.outcome.interrupted)
        return self.outcome

    def serve(self, *, web_port: int) -> Run:
        """Show Locust's page, where people choose how many users there are, until `interrupt` is called.

        The run is one phase, as long as it took.
        """
        self._follows_phases = False
        with self._locust(web_port, None) as environment:
            self._prime()
            self._begin()
            while not self.outcome.interrupted:
                gevent.sleep(_LOOK_SECONDS)
            self.outcome.interrupted = False  # it was to be
            phase = replace(self.scenario.phases[0], seconds=self.seconds, name="Locust's page", warmup=False)
            self.outcome.scenario = replace(self.scenario, phases=(phase,))
            environment.runner.stop()
            self._portal.drain(0.0, cut_short=lambda: True)
        return self.outcome

    def interrupt(self) -> None:
        """End the run now: what is under way is cancelled; a signal handler may."""
        self.outcome.interrupted = True

    @property
    def seconds(self) -> float:
        """Since the beginning of the run."""
        return self._portal.now

    @property
    def num_under_way(self) -> int:
        """How many callers wait for answers, or think between the turns of a conversation."""
        return self._portal.num_under_way

    def _prime(self) -> None:
        if self.scenario.mix.video_warm:
            self._portal.prime()

    def _begin(self) -> None:
        self.outcome.started = time.time()
        self._portal.begin()

    def _watch(self, runner: Any, on_look: Callable[[Load], None]) -> None:
        end = time.monotonic() + self.scenario.seconds + _GRACE_SECONDS
        while runner.shape_greenlet is not None and time.monotonic() < end and not self.outcome.interrupted:
            gevent.sleep(_LOOK_SECONDS)
            on_look(self)

    @contextmanager
    def _locust(self, web_port: int | None, shape: Phases | None) -> Iterator[Any]:
        logging.getLogger("locust").setLevel(logging.WARNING)
        host = self.outcome.server.url
        environment = Environment(user_classes=[user_class(self.scenario)], shape_class=shape, host=host)
        environment.arrivals = self  # pyright: ignore[reportAttributeAccessIssue]
        runner = environment.create_local_runner()
        self._environment = environment
        try:
            with _web_page(environment, web_port):
                yield environment
        finally:
            self._environment = None
            runner.quit()


@contextmanager
def connected(scenario: Scenario, connection: Mapping[str, Any]) -> Iterator[Load]:
    """Connect to the server and yield a `Load`.

    Args:
        scenario: What is to happen.
        connection: The arguments of `AsyncVideoLlava`.

    Raises:
        ServerError: The server was not reached.
    """
    loads: list[Load] = []
    portal = Portal(connection, scenario.requests, on_record=lambda record: loads[0].take(record))
    with portal:
        assert portal.info is not None
        loads.append(Load(scenario, portal, portal.info))
        yield loads[0]


def _tell_locust(environment: Any, record: Record) -> None:
    """One request in Locust's statistics, by its kind; TTFT in a line of its own that no sum counts."""
    milliseconds = 1000 * (record.latency_seconds or max(0.0, record.ended - record.due))
    failure = f"{record.reason}: {record.message}" if record.outcome == FAILED else None
    if record.outcome in (ANSWERED, FAILED, UNFINISHED):
        environment.events.request.fire(
            request_type="request latency",
            name=record.kind,
            response_time=milliseconds,
            response_length=0,
            exception=failure if record.outcome != UNFINISHED else "unfinished when the run ended",
            context={},
        )
    if record.outcome == ANSWERED and record.first_token_seconds is not None:
        environment.stats.get(record.kind, "time to first token").log(1000 * record.first_token_seconds, 0)


@contextmanager
def _web_page(environment: Any, port: int | None) -> Iterator[None]:
    """Serve Locust's page on this machine while the block lasts; None: do not."""
    if port is None:
        yield
        return
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as exc:
        raise OptionError(f"--web-port {port} cannot be listened on ({exc.strerror}): give another one") from exc
    # The page reads the program's arguments as if they were Locust's own, for fields to show.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    web = environment.create_web_ui("127.0.0.1", port)
    charts = gevent.spawn(stats_history, environment.runner)
    try:
        yield
    finally:
        charts.kill()
        web.stop()
        sys.argv = arguments
