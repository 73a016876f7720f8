"""One run: Locust's runner, statistics and web page around the scenario."""

from __future__ import annotations

import logging
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.event import Event
from video_llava_client import AsyncVideoLlava, Clip, OptionError, Retry, ServerInfo, StateError

from .event_loop import EventLoop
from .media import Pixels
from .plan import Planner
from .requests import ANSWERED, CANCELLED, FAILED, UNFINISHED, Caller, Record
from .scenario import Scenario
from .users import Phases, user_class

# After users.py, which keeps Locust from patching Python.
from locust import stats  # isort: skip
from locust.env import Environment  # isort: skip
from locust.html import get_html_report  # isort: skip

stats.PERCENTILES_TO_CHART = [0.5, 0.9, 0.99]
stats.HISTORY_STATS_INTERVAL_SEC = 1
stats.CONSOLE_STATS_INTERVAL_SEC = _CONSOLE_SECONDS = 10
_LOOK_SECONDS = 0.2
# The server's counters are published after its answers: those that made videos warm must not count.
_SETTLE_SECONDS = 0.5


@dataclass
class Run:
    """What happened."""

    scenario: Scenario
    server: ServerInfo
    started: float  # seconds since 1970
    records: list[Record] = field(default_factory=list)  # in the order in which they ended, warm-ups included
    interrupted: bool = False
    locust_page: str = field(default="", repr=False)  # Locust's own HTML report

    @property
    def measured(self) -> list[Record]:
        """The requests due in phases other than warm-ups."""
        phases = self.scenario.phases
        return [record for record in self.records if not phases[self.scenario.phase_at(record.due)[0]].warmup]


class Load:
    """A connected scenario, made by `connected`; Locust's users call `arrive`."""

    def __init__(self, scenario: Scenario, server: ServerInfo, caller: Caller, loop: EventLoop) -> None:
        self.scenario = scenario
        self.random = random.Random(scenario.seed)
        self.outcome = Run(scenario, server, time.time(), caller.records)
        self._planner = Planner(scenario.mix, scenario.requests, seed=scenario.seed)
        self._caller = caller
        self._loop = loop
        self._users_from_page = False
        self._num_logged = 0

    def arrive(self) -> Event:
        """Start the next caller's requests; return an event that is set when they are done."""
        return self._loop.start(self._caller.run(self._planner.next(), self.seconds))

    def keeps_arrival(self) -> bool:
        """Whether a source's arrival is kept at this moment's rate; with users from Locust's page, all are."""
        rate = self.scenario.level_at(self.seconds)
        return self._users_from_page or self.random.random() * self.scenario.num_sources < rate

    @property
    def seconds(self) -> float:
        """Since the beginning of the run."""
        return self._caller.now

    def run(
        self,
        *,
        web_port: int | None = None,
        users_from_page: bool = False,
        on_begin: Callable[[], None] = lambda: None,
    ) -> Run:
        """Go through the phases, then wait for running requests. SIGINT ends the run and cancels them.

        Args:
            web_port: Port of Locust's page on this machine; None for no page.
            users_from_page: Take the number of users from Locust's page instead of the phases, until SIGINT.
            on_begin: Called before the first arrival.

        Raises:
            OptionError: The port is taken.
        """
        self._users_from_page = users_from_page
        with self._interruptible(), self._locust(web_port) as environment:
            gevent.sleep(_SETTLE_SECONDS)
            on_begin()
            self.outcome.started = time.time()
            self._caller.begin()
            if not users_from_page:
                environment.runner.start_shape()
            while (users_from_page or environment.runner.shape_greenlet) and not self.outcome.interrupted:
                gevent.sleep(_LOOK_SECONDS)
                self._log(environment)
            self._end(environment)
        return self.outcome

    def _end(self, environment: Any) -> None:
        seconds = self.seconds
        self._caller.is_ending = True
        environment.runner.stop()
        self._loop.drain(self.scenario.drain_seconds, cut_short=lambda: self.outcome.interrupted)
        self._log(environment)
        self.outcome.locust_page = get_html_report(environment, show_download_link=False)
        if self._users_from_page:  # which only SIGINT ends
            changes = {"seconds": seconds, "name": "Locust's page", "warmup": False}
            phases = (self.scenario.phases[0].model_copy(update=changes),)
            self.outcome.scenario = self.scenario.model_copy(update={"phases": phases})
            self.outcome.interrupted = False

    def _log(self, environment: Any) -> None:
        """Put what ended since the last call into Locust's statistics, by kind and metric."""
        records = self.outcome.records[self._num_logged :]
        self._num_logged += len(records)
        for record in records:
            _log(environment, record)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        def interrupt(*_: object) -> None:
            self.outcome.interrupted = True

        usual = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, usual)

    @contextmanager
    def _locust(self, web_port: int | None) -> Iterator[Any]:
        logging.getLogger("locust").setLevel(logging.WARNING)
        environment = Environment(
            user_classes=[user_class(self)],
            shape_class=None if self._users_from_page else Phases(self.scenario),
            host=self.outcome.server.url,
            locustfile=self.scenario.name,
        )
        runner = environment.create_local_runner()
        helpers = [gevent.spawn(stats.stats_history, runner)]
        if sys.stderr.isatty():
            console = logging.getLogger("locust.stats_logger")
            console.setLevel(logging.INFO)
            console.handlers = [logging.StreamHandler()]
            helpers.append(gevent.spawn_later(_CONSOLE_SECONDS, stats.stats_printer(environment.stats)))
        try:
            with _web_page(environment, web_port):
                yield environment
        finally:
            gevent.killall(helpers)
            runner.quit()


@contextmanager
def connected(scenario: Scenario, connection: Mapping[str, Any]) -> Iterator[Load]:
    """Connect to the server, ask about each warm video once, and yield a `Load`.

    Args:
        scenario: What is to happen.
        connection: The arguments of `AsyncVideoLlava`; nothing is asked twice unless `retry` is one of them.

    Raises:
        ServerError: The server was not reached, or does not answer.
    """
    with EventLoop() as loop:
        client = loop.wait(_open({"retry": Retry(num_attempts=1), **connection}))
        try:
            server = loop.wait(client.info())
            if server.limits is None:
                raise StateError(f"{server.url} does not say what its model takes: it is of an earlier release")
            pixels = Pixels(server.limits, num_warm=scenario.requests.warm_videos)
            if scenario.mix.video_warm:
                loop.wait(_warm_up(pixels.warm, connection))
            caller = Caller(client, pixels, ignore_eos=scenario.requests.ignore_eos)
            yield Load(scenario, server, caller, loop)
        finally:
            loop.wait(client.close())


async def _open(connection: Mapping[str, Any]) -> AsyncVideoLlava:
    return AsyncVideoLlava(**connection)


async def _warm_up(clips: Iterable[Clip], connection: Mapping[str, Any]) -> None:
    # Unlike the requests of the run, these may be retried.
    async with AsyncVideoLlava(**{**connection, "retry": Retry()}) as client:
        for clip in clips:
            await client.ask("What happens?", video=clip, max_tokens=1)


def _log(environment: Any, record: Record) -> None:
    # Only the latency counts in Locust's sums.
    if record.outcome != CANCELLED:
        failures = {FAILED: f"{record.reason}: {record.message}", UNFINISHED: "unfinished when the run ended"}
        environment.events.request.fire(
            request_type="request latency",
            name=record.kind,
            response_time=1000 * (record.latency_seconds or max(0.0, record.ended - record.due)),
            response_length=0,
            exception=failures.get(record.outcome),
            context={},
        )
    if record.outcome == ANSWERED:
        environment.stats.get(record.kind, "time to first token").log(1000 * (record.first_token_seconds or 0.0), 0)
        environment.stats.get(record.kind, "inter-token latency").log(1000 * (record.inter_token_seconds or 0.0), 0)


@contextmanager
def _web_page(environment: Any, port: int | None) -> Iterator[None]:
    """Serve Locust's page on this machine while the block lasts."""
    if port is None:
        yield
        return
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as exc:
        raise OptionError(f"--web-port {port} cannot be listened on ({exc.strerror}): give another one") from exc
    # The page parses sys.argv as if it were Locust's command line.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    web = environment.create_web_ui("127.0.0.1", port)
    try:
        yield
    finally:
        web.stop()
        sys.argv = arguments
