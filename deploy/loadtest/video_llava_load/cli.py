"""The command `video-llava-load`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from video_llava_client import Internal, OptionError, VideoLlava
from video_llava_client.cli.options import SETTINGS, ConnectionOptions, option, takes
from video_llava_client.cli.output import INTERRUPTED, SERVER_FAILED, SOME_FAILED, exit_codes

from . import perf_analyzer
from .counters import read_counters, read_growth
from .load import Run, connected
from .metrics import Figures
from .report import Report, page, run_json, run_parts, search_json, search_parts
from .saturation import search
from .scenario import Phase, Scenario, read_scenario, shipped_scenarios

EXIT_CODES = """\b
Exit codes:
  0    every request was answered, or cancelled as planned; saturation: a rate was found
  1    the server was not reached, or answered nothing; saturation: the lowest rate was missed
  2    bad input
  3    some requests failed, or were unfinished
  130  interrupted; what was measured until then is reported"""

_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class LoadConnectionOptions(ConnectionOptions):
    """As for the client, but without retries: a refusal counts as a failure."""

    attempts: int = option("--attempts", default=1, help="Attempts per request if the server is full or unreachable.")


@dataclass(frozen=True)
class ReportOptions:
    """Where the report goes besides the terminal."""

    json: Path | None = option("--json", type=_PATH, help="Write the figures, and each request, as JSON.")
    html: Path | None = option(
        "--html", type=_PATH, help="Write one HTML file: the tables, and for a run Locust's charts."
    )

    def check(self) -> None:
        """Raise OptionError before the run where a file cannot be written."""
        for file in (self.json, self.html):
            if file is not None and not os.access(file.parent, os.W_OK):
                raise OptionError(f"{file} cannot be written: {file.parent} is not a folder that you can write to")

    def write(self, report: Report, parts: Callable[[Report], Iterable[Any]], locust_page: str = "") -> None:
        """Print the report, and write the files."""
        # Files and pipes get room for all columns.
        Console(width=None if sys.stdout.isatty() else 140).print(*parts(report), sep="\n")
        if self.json is not None:
            self.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.html is not None:
            title = f"{report['scenario']['name']} on {report['server']['url']}, {report['started']}"
            self.html.write_text(page(title, parts(report), locust_page), encoding="utf-8")


@click.argument("scenario")
@click.option("--scale", default=1.0, help="Multiply all rates, or users, by this.")
@click.option("--seconds", type=float, help="Stretch or shrink the phases to this total.")
@click.option("--web-port", type=int, help="Port for Locust's live page, on this machine.")
@click.option("--metrics-url", help="Triton's metrics, such as http://localhost:8002/metrics, for its own counters.")
@takes(report=ReportOptions, connection=LoadConnectionOptions)
def run(
    scenario: str,
    scale: float,
    seconds: float | None,
    web_port: int | None,
    metrics_url: str | None,
    report: ReportOptions,
    connection: LoadConnectionOptions,
) -> None:
    """Run a scenario and report what callers saw, in AIPerf's terms.

    SCENARIO is a shipped one (see `scenarios`), or a TOML file.
    """
    with exit_codes():
        report.check()
        wanted = _resized(read_scenario(scenario), scale=scale, seconds=seconds)
        before = read_counters(metrics_url) if metrics_url else {}

        def begin() -> None:
            before.update(read_counters(metrics_url) if metrics_url else {})

        with connected(wanted, connection.arguments()) as load:
            outcome = load.run(web_port=web_port, on_begin=begin)
        figures = run_json(outcome, read_growth(metrics_url, before) if metrics_url else None)
        report.write(figures, run_parts, outcome.locust_page)
        sys.exit(_exit_code(figures))


@click.argument("scenario")
@click.option("--web-port", default=8089, help="Port of Locust's page, on this machine.")
@takes(report=ReportOptions, connection=LoadConnectionOptions)
def web(scenario: str, web_port: int, report: ReportOptions, connection: LoadConnectionOptions) -> None:
    """Set the number of users on Locust's page, until Ctrl-C; then report.

    The scenario gives the requests and the loop. Open loop: a user is one arrival per second. Closed loop: a user is a
    caller who asks again after each answer.
    """
    with exit_codes():
        report.check()
        with connected(read_scenario(scenario), connection.arguments()) as load:
            click.echo(f"http://127.0.0.1:{web_port}", err=True)
            outcome = load.run(web_port=web_port, users_from_page=True)
        report.write(run_json(outcome), run_parts, outcome.locust_page)


@click.argument("scenario", default="saturation")
@takes(report=ReportOptions, connection=LoadConnectionOptions)
def saturation(scenario: str, report: ReportOptions, connection: LoadConnectionOptions) -> None:
    """Find the highest arrival rate that meets an objective, such as TTFT below a second at p99.

    The objective is the [saturation] of the scenario. Each rate is an open-loop run of its own; rates double until one
    is missed, then close in by halves.
    """
    with exit_codes():
        report.check()

        def run_trial(trial: Scenario) -> Run:
            with connected(trial, connection.arguments()) as load:
                return load.run()

        def show(trial: Figures) -> None:
            outcome = "met" if trial["met"] else f"missed, {trial['why']}"
            click.echo(f"{trial['rate']:8.2f} arrivals/s: {outcome}", err=True)

        found = search(read_scenario(scenario), run_trial, show)
        if found.trials:
            report.write(search_json(found), search_parts)
        if found.interrupted:
            sys.exit(INTERRUPTED)
        sys.exit(SERVER_FAILED if found.highest_met is None else 0)


@click.argument("name", required=False)
def scenarios(name: str | None) -> None:
    """List the shipped scenarios, or print one."""
    with exit_codes():
        shipped = shipped_scenarios()
        if name is not None and name not in shipped:
            raise OptionError(f"no scenario {name!r}: there are {', '.join(shipped)}")
        if name is not None:
            click.echo(shipped[name], nl=False)
            return
        for known, text in shipped.items():
            click.echo(f"{known:12} {text.splitlines()[0].lstrip('# ')}")


@click.argument("file", type=_PATH)
@click.option("--scenario", default="saturation", help="Its requests are written, without conversations.")
@click.option("--entries", type=click.IntRange(1, 10_000), default=100, help="Number of requests.")
@click.option("--rate", type=float, help="Poisson arrivals per second, instead of --concurrency.")
@click.option("--concurrency", type=click.IntRange(min=1), default=4, help="Requests running at a time.")
@takes(connection=LoadConnectionOptions)
def perf_analyzer_inputs(
    file: Path, scenario: str, entries: int, rate: float | None, concurrency: int, connection: LoadConnectionOptions
) -> None:
    """Write input data for Triton's perf_analyzer into FILE, and print the command that sends them."""
    with exit_codes():
        wanted = read_scenario(scenario)
        with VideoLlava(**connection.arguments()) as client:
            limits = client.info().limits
        if limits is None:
            raise Internal(f"{connection.url} does not say what its model takes: it is of an earlier release")
        perf_analyzer.write_inputs(file, wanted, limits, num_entries=entries)
        url, model = connection.url, connection.model
        click.echo(
            perf_analyzer.command_line(
                file, url=url, model=model, num_entries=entries, rate=rate, concurrency=concurrency
            )
        )


@click.group("video-llava-load", epilog=EXIT_CODES, no_args_is_help=True, context_settings=SETTINGS)
def app() -> None:
    """Send load to a Triton server of Video-LLaVA, and report what callers see."""


for _name, _command in {
    "run": run,
    "saturation": saturation,
    "web": web,
    "scenarios": scenarios,
    "perf-analyzer": perf_analyzer_inputs,
}.items():
    app.command(_name, epilog=EXIT_CODES)(_command)


def main() -> None:
    """Run the command line."""
    # Otherwise gRPC writes lines of its own about connections.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app()


def _resized(scenario: Scenario, *, scale: float, seconds: float | None) -> Scenario:
    if scale <= 0 or (seconds is not None and seconds <= 0):
        raise OptionError(f"--scale and --seconds must be above 0, got {scale} and {seconds}")
    stretch = 1.0 if seconds is None else seconds / scenario.seconds
    return scenario.model_copy(update={"phases": tuple(_resized_phase(p, scale, stretch) for p in scenario.phases)})


def _resized_phase(phase: Phase, scale: float, stretch: float) -> Phase:
    start, end = (level * scale for level in phase.level)
    level = {"rate": (start, end)} if phase.users is None else {"users": (max(1, round(start)), max(1, round(end)))}
    return phase.model_copy(update={"seconds": phase.seconds * stretch, **level})


def _exit_code(report: Report) -> int:
    if report["interrupted"]:
        return INTERRUPTED
    if not report["answered_count"]:
        return SERVER_FAILED
    return SOME_FAILED if report["failed_count"] or report["unfinished_count"] else 0
