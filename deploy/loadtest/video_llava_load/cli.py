"""The command `video-llava-load`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.status import Status
from video_llava_client import Internal, OptionError, VideoLlava
from video_llava_client.cli.options import ConnectionOptions, expanded
from video_llava_client.cli.output import INTERRUPTED, SERVER_FAILED, SOME_FAILED, exit_codes

from . import perf_analyzer
from .counters import Counters
from .load import Load, Run, connected
from .metrics import summarize
from .page import run_page, search_page
from .report import dump, print_run, print_search, run_json, search_json
from .saturation import Trial
from .saturation import search as search_rates
from .scenario import Phase, Scenario
from .scenario_file import read_scenario, shipped_scenarios

EXIT_CODES = """\b
Exit codes:
  0    every request was answered, or cancelled as planned; saturation: a rate was found
  1    the server was not reached, or answered nothing; saturation: not even the lowest rate was met
  2    bad input
  3    some requests failed, or were unfinished
  130  interrupted; what was measured until then is reported"""

ScenarioName = Annotated[
    str, typer.Argument(metavar="SCENARIO", help="A shipped one (see `scenarios`), or a TOML file like them.")
]


@dataclass(frozen=True)
class LoadConnectionOptions(ConnectionOptions):
    """As for the client, but nothing is asked twice: a refusal is to be counted."""

    attempts: Annotated[int, typer.Option(help="How often to ask a server that is full or away.")] = 1


@dataclass(frozen=True)
class ReportOptions:
    """Where the report goes besides the terminal."""

    json: Annotated[Path | None, typer.Option(help="Write the figures, and each request, as JSON.")] = None
    html: Annotated[Path | None, typer.Option(help="Write a page with plots: one file, 5 MB, needs nothing else.")] = (
        None
    )

    def check(self) -> None:
        """Raise OptionError where a file could not be written, before an hour of load."""
        for file in (self.json, self.html):
            if file is not None and not os.access(file.parent, os.W_OK):
                raise OptionError(f"{file} cannot be written: {file.parent} is no folder, or not yours")

    def write(self, json: Callable[[], dict[str, Any]], html: Callable[[], str]) -> None:
        """Write the files that were asked for."""
        if self.json is not None:
            self.json.write_text(dump(json()), encoding="utf-8")
        if self.html is not None:
            self.html.write_text(html(), encoding="utf-8")


def run(
    scenario: ScenarioName,
    scale: Annotated[float, typer.Option(help="Multiply all rates, or users, by this.")] = 1.0,
    seconds: Annotated[float | None, typer.Option(help="Stretch or shrink the phases to so long in all.")] = None,
    web_port: Annotated[int | None, typer.Option(help="Show it live on Locust's page, on this machine.")] = None,
    metrics_url: Annotated[
        str | None, typer.Option(help="Triton's metrics, such as http://localhost:8002/metrics, for its own counters.")
    ] = None,
    *,
    report: ReportOptions,
    connection: LoadConnectionOptions,
) -> None:
    """Go through a scenario and report what callers saw, in AIPerf's terms."""
    with exit_codes():
        report.check()
        wanted = _resized(read_scenario(scenario), scale=scale, seconds=seconds)
        counted = Counters(metrics_url)
        with _load(wanted, connection) as load, _progress() as tell:
            outcome = load.run(web_port=web_port, on_begin=counted.begin, on_look=tell)
        counters = counted.growth()
        print_run(outcome, _console(), counters)
        report.write(lambda: run_json(outcome, counters), lambda: run_page(outcome, counters))
        raise typer.Exit(_exit_code(outcome))


def web(
    scenario: ScenarioName,
    web_port: Annotated[int, typer.Option(help="Where, on this machine.")] = 8089,
    *,
    report: ReportOptions,
    connection: LoadConnectionOptions,
) -> None:
    """Let people choose on Locust's page how many users there are, until Ctrl-C; then report.

    Of the scenario counts what it asks, and its loop: in an open one a user is one arrival a second, in a closed one a
    caller who asks again when the answer is there.
    """
    with exit_codes():
        report.check()
        with _load(read_scenario(scenario), connection) as load:
            typer.echo(f"http://127.0.0.1:{web_port}", err=True)
            outcome = load.serve(web_port=web_port)
        print_run(outcome, _console())
        report.write(lambda: run_json(outcome), lambda: run_page(outcome))


def saturation(
    scenario: ScenarioName = "saturation",
    *,
    report: ReportOptions,
    connection: LoadConnectionOptions,
) -> None:
    """Find the highest arrival rate at which an objective is met: TTFT below a second for 99 of 100, say.

    The objective is the [saturation] of the scenario. Each rate is a run of its own, open loop; rates double until one
    is missed, then close in by halves.
    """
    with exit_codes():
        report.check()
        wanted = read_scenario(scenario)

        def run_trial(trial: Scenario) -> Run:
            with _load(trial, connection) as load, _progress() as tell:
                return load.run(on_look=tell)

        def tell_trial(trial: Trial) -> None:
            outcome = "met" if trial.met else f"missed, {trial.why}"
            typer.echo(f"{trial.rate:8.2f} arrivals/s: {outcome}", err=True)

        found = search_rates(wanted, run_trial, tell_trial)
        if not found.trials:
            raise typer.Exit(INTERRUPTED)
        print_search(found, _console())
        report.write(lambda: search_json(found), lambda: search_page(found))
        if found.interrupted:
            raise typer.Exit(INTERRUPTED)
        raise typer.Exit(0 if found.highest_met is not None else SERVER_FAILED)


def scenarios(
    name: Annotated[str | None, typer.Argument(help="Print this one, to begin a file of your own with.")] = None,
) -> None:
    """List the scenarios that come with this, or print one."""
    with exit_codes():
        shipped = shipped_scenarios()
        if name is not None and name not in shipped:
            raise OptionError(f"no scenario {name!r} comes with this: there are {', '.join(shipped)}")
        if name is not None:
            typer.echo(shipped[name], nl=False)
            return
        for known, text in shipped.items():
            typer.echo(f"{known:12} {text.splitlines()[0].lstrip('# ')}")


def perf_analyzer_inputs(
    file: Annotated[Path, typer.Argument(help="Where the input data go, JSON.")],
    scenario: Annotated[str, typer.Option(help="Whose requests; conversations are left out.")] = "saturation",
    entries: Annotated[int, typer.Option(min=1, max=10_000, help="How many requests.")] = 100,
    rate: Annotated[float | None, typer.Option(help="Arrivals a second, Poisson, instead of --concurrency.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests under way at a time.")] = 4,
    *,
    connection: LoadConnectionOptions,
) -> None:
    """Write input data for Triton's perf_analyzer, and print the command that sends them."""
    with exit_codes():
        wanted = read_scenario(scenario)
        with VideoLlava(**connection.arguments()) as client:
            limits = client.info().limits
        if limits is None:
            raise Internal(f"{connection.url} does not say what its model takes: it is of an earlier release")
        perf_analyzer.write_inputs(file, wanted, limits, num_entries=entries)
        arguments = perf_analyzer.command(
            file,
            url=connection.url,
            model=connection.model,
            num_entries=entries,
            rate=rate,
            concurrency=concurrency,
        )
        typer.echo(perf_analyzer.command_line(arguments))


app = typer.Typer(
    name="video-llava-load",
    help="Put load on a Triton server of Video-LLaVA, and report what callers see.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in {
    "run": run,
    "saturation": saturation,
    "web": web,
    "scenarios": scenarios,
    "perf-analyzer": perf_analyzer_inputs,
}.items():
    app.command(name=_name, epilog=EXIT_CODES)(expanded(_command))


def main() -> None:
    """Run the command line."""
    # gRPC would write its own lines about connections between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app()


def _resized(scenario: Scenario, *, scale: float, seconds: float | None) -> Scenario:
    if scale <= 0 or (seconds is not None and seconds <= 0):
        raise OptionError(f"--scale and --seconds must be above 0, got {scale} and {seconds}")
    stretch = 1.0 if seconds is None else seconds / scenario.seconds
    return replace(scenario, phases=tuple(_resized_phase(phase, scale, stretch) for phase in scenario.phases))


def _resized_phase(phase: Phase, scale: float, stretch: float) -> Phase:
    start, end = (level * scale for level in phase.level)
    if phase.rate is not None:
        return replace(phase, seconds=phase.seconds * stretch, rate=(start, end))
    return replace(phase, seconds=phase.seconds * stretch, users=(max(1, round(start)), max(1, round(end))))


@contextmanager
def _load(scenario: Scenario, connection: LoadConnectionOptions) -> Iterator[Load]:
    """Connect; from then on Ctrl-C ends the run and not the program."""
    with connected(scenario, connection.arguments()) as load:
        usual = signal.signal(signal.SIGINT, lambda *_: load.interrupt())
        try:
            yield load
        finally:
            signal.signal(signal.SIGINT, usual)


@contextmanager
def _progress() -> Iterator[Callable[[Load], None]]:
    """Show on stderr, if that is a terminal, how a run goes."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with Status("", console=console) as status:

        def tell(load: Load) -> None:
            records = load.outcome.records
            failed = sum(bool(record.reason) for record in records)
            status.update(
                f"{min(load.seconds, load.scenario.seconds):.0f} of {load.scenario.seconds:.0f} s: "
                f"{len(records)} requests ended, {failed} failed, {load.num_under_way} callers under way"
            )

        yield tell


def _console() -> Console:
    """Where tables go; what is no terminal has room for all their columns."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _exit_code(outcome: Run) -> int:
    summary = summarize(outcome.measured, outcome.scenario.objectives)
    if outcome.interrupted:
        return INTERRUPTED
    if not summary.num_answered:
        return SERVER_FAILED
    return SOME_FAILED if summary.num_failed or summary.num_unfinished else 0
