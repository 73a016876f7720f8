"""Figures become a table for people, and JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from .counters import compare
from .load import Run
from .metrics import Distribution, Summary, by_kind, by_phase, summarize
from .saturation import Search, Trial
from .scenario import PERCENTILES

COMPARED = (
    "Warm-ups are included, and on the server's side what others asked it meanwhile. Who leaves as an answer ends has "
    "left here and is answered there. Tokens made between a caller's leaving and the server's noticing are there alone."
)
"""What explains differences between the two columns of `compare`."""

LATE_MS = 100.0
"""This tool's own lateness, at the 99th percentile, from which on the figures are about it as much as the server."""


def warnings(summary: Summary) -> list[str]:
    """Return what a reader should know before believing the figures."""
    told = []
    lag = summary.percentile("send_lag", 99)
    if lag is not None and lag > LATE_MS:
        told.append(
            f"this tool sent requests {lag:.0f} ms late (p99): it, or its machine, is the bottleneck; give it another "
            "machine, or lower the rate"
        )
    if 0 < summary.num_answered < 100:
        told.append(f"p99 of {summary.num_answered} answers is close to the largest: run longer for more than a hint")
    if summary.num_unfinished:
        told.append(f"{summary.num_unfinished} requests were unfinished when the run ended, and cancelled")
    return told


def print_run(run: Run, console: Console, counters: Mapping[str, float] | None = None) -> None:
    """Write the tables of a run."""
    total = summarize(run.measured, run.scenario.objectives)
    console.print(_latency_table(total))
    console.print(_totals_table(total, str(run.scenario.objectives)))
    console.print(_groups_table("kind", by_kind(run)))
    if len(run.scenario.phases) > 1:
        console.print(_groups_table("phase", by_phase(run)))
    if counters is not None:
        console.print(_compared_table(run, counters))
    for error in total.errors:
        console.print(f"[red]{error.count} x {error.reason}[/]: {error.example}", highlight=False)
    for text in warnings(total):
        console.print(f"[yellow]note:[/] {text}", highlight=False)


def print_search(search: Search, console: Console) -> None:
    """Write the table of a saturation search, and its answer."""
    asked = search.asked
    table = _table("arrivals/s", f"{asked.metric.replace('_', ' ')}, ms")
    for name in ("offered", "answered", *(f"p{p}" for p in PERCENTILES), "failed", "under way", "met"):
        table.add_column(name, justify="right")
    for trial in search.trials:
        figures = (trial.summary.percentile(asked.metric, p) for p in PERCENTILES)
        table.add_row(
            f"{trial.rate:.2f}",
            f"{trial.offered:.2f}",
            f"{trial.answered:.2f}",
            *("-" if figure is None else f"{figure:.0f}" for figure in figures),
            str(trial.summary.num_failed + trial.summary.num_unfinished),
            under_way_text(trial),
            "yes" if trial.met else f"no: {trial.why}",
        )
    console.print(table)
    console.print(verdict(search), highlight=False)


def under_way_text(trial: Trial) -> str:
    """Return how many requests were under way when a trial began and when it ended."""
    return "{} to {}".format(*trial.under_way)


def verdict(search: Search) -> str:
    """Return the answer of a saturation search as a sentence."""
    came = {trial.rate: f"{trial.rate:.2f} arrivals/s ({trial.offered:.2f} came)" for trial in search.trials}
    if search.highest_met is None:
        return f"{search.asked}: not met at {came[search.trials[0].rate]}, the lowest rate tried"
    if search.lowest_missed is None:
        return f"{search.asked}: met up to {came[search.highest_met]}, the highest rate tried"
    interrupted = " (interrupted)" if search.interrupted else ""
    return f"{search.asked}: met at {came[search.highest_met]}, not at {came[search.lowest_missed]}{interrupted}"


def run_json(run: Run, counters: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return a run as JSON: the figures at the top in AIPerf's form, then groups, and each request."""
    total = summarize(run.measured, run.scenario.objectives)
    return {
        **_about(run),
        **summary_json(total),
        "by_kind": {name: summary_json(summary) for name, summary in by_kind(run).items()},
        "by_phase": {name: summary_json(summary) for name, summary in by_phase(run).items()},
        "warnings": warnings(total),
        "interrupted": run.interrupted,
        "server_counters": counters,
        "compared_with_server": None if counters is None else [asdict(row) for row in compare(run.records, counters)],
        "requests": [asdict(record) for record in run.records],
    }


def search_json(search: Search) -> dict[str, Any]:
    """Return a saturation search as JSON."""
    trials = [
        {
            "rate": trial.rate,
            "offered": trial.offered,
            "met": trial.met,
            "why": trial.why,
            "answered": trial.answered,
            "under_way": list(trial.under_way),
            **summary_json(trial.summary),
        }
        for trial in search.trials
    ]
    about = _about(search.trials[0].run) if search.trials else {}
    return {
        **about,
        "verdict": verdict(search) if search.trials else "interrupted before the first trial",
        "highest_rate_met": search.highest_met,
        "lowest_rate_missed": search.lowest_missed,
        "interrupted": search.interrupted,
        "trials": trials,
    }


def summary_json(summary: Summary) -> dict[str, Any]:
    """Return figures in the form of AIPerf's JSON export: name, unit, avg and percentiles."""
    figures: dict[str, Any] = {name: _distribution_json(found) for name, found in summary.distributions.items()}
    figures |= {
        "request_throughput": {"unit": "requests/sec", "avg": summary.request_throughput},
        "output_token_throughput": {"unit": "tokens/sec", "avg": summary.output_token_throughput},
        "goodput": {"unit": "requests/sec", "avg": summary.goodput},
        "benchmark_duration": {"unit": "sec", "avg": summary.duration_seconds},
    }
    for name, value in asdict(summary).items():
        if name.startswith("num_"):
            figures[name.removeprefix("num_") + "_count"] = value
    figures["stage_ms"] = summary.stage_ms
    figures["errors"] = [asdict(error) for error in summary.errors]
    return figures


def label(name: str, unit: str) -> str:
    """Return a metric's name for people, with its unit."""
    words = name.replace("_", " ").replace("inter token", "inter-token")
    return "output tokens/sec/user" if unit == "tokens/sec/user" else f"{words}, {unit}"


def dump(value: dict[str, Any]) -> str:
    """Return JSON in lines short enough to look at."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _about(run: Run) -> dict[str, Any]:
    limits = run.server.limits
    return {
        "tool": f"video-llava-load {version('video-llava-triton')}",
        "started": datetime.fromtimestamp(run.started, UTC).isoformat(timespec="seconds"),
        "server": {"url": run.server.url, "version": run.server.version, "limits": limits and asdict(limits)},
        "scenario": asdict(run.scenario),
    }


def _distribution_json(found: Distribution) -> dict[str, Any]:
    percentiles = {f"p{percentile}": value for percentile, value in found.percentiles.items()}
    ends = {"min": found.minimum, "max": found.maximum, "std": found.std, "count": found.num_values}
    return {"unit": found.unit, "avg": found.average, **percentiles, **ends}


def _latency_table(summary: Summary) -> Table:
    table = _table("metric")
    for name in ("avg", "min", *(f"p{p}" for p in PERCENTILES), "max"):
        table.add_column(name, justify="right")
    for name, found in summary.distributions.items():
        values = (found.average, found.minimum, *found.percentiles.values(), found.maximum)
        table.add_row(label(name, found.unit), *(f"{value:,.1f}" for value in values))
    return table


def _totals_table(summary: Summary, objectives: str) -> Table:
    table = _table("", show_header=False)
    table.add_column()
    parts = (summary.num_answered, summary.num_cancelled, summary.num_failed, summary.num_unfinished)
    cached = 100 * summary.num_cached_tokens / max(1, summary.num_input_tokens)
    table.add_row("request throughput", f"{summary.request_throughput:.2f} requests/sec")
    table.add_row("output token throughput", f"{summary.output_token_throughput:.1f} tokens/sec")
    table.add_row("goodput", f"{summary.goodput:.2f} requests/sec ({summary.num_good} answers)")
    table.add_row("  counts answers with", objectives)
    table.add_row(f"requests: {summary.num_sent}", "{} answered, {} cancelled, {} failed, {} unfinished".format(*parts))
    table.add_row("from the prefix cache", f"{cached:.1f} % of {summary.num_input_tokens:,} input tokens")
    stages = ", ".join(f"{stage} {value:.1f}" for stage, value in summary.stage_ms.items())
    table.add_row("mean of an answer, ms", stages or "-")
    table.add_row("benchmark duration", f"{summary.duration_seconds:.1f} sec")
    return table


def _groups_table(heading: str, groups: Mapping[str, Summary]) -> Table:
    table = _table(heading)
    for name in ("sent", "answered", "failed", "TTFT p50", "p99, ms", "ITL p50", "p99, ms", "good"):
        table.add_column(name, justify="right")
    for name, summary in groups.items():
        figures = (summary.percentile(m, p) for m in ("time_to_first_token", "inter_token_latency") for p in (50, 99))
        table.add_row(
            name,
            str(summary.num_sent),
            str(summary.num_answered),
            str(summary.num_failed),
            *("-" if figure is None else f"{figure:,.1f}" for figure in figures),
            f"{100 * summary.good_share:.0f} %",
        )
    return table


def _compared_table(run: Run, counters: Mapping[str, float]) -> Table:
    table = _table("warm-ups included")
    for name in ("seen here", "counted by the server"):
        table.add_column(name, justify="right")
    for row in compare(run.records, counters):
        table.add_row(row.what, f"{row.here:,}", f"{row.server:,.0f}")
    return table


def _table(first: str, title: str | None = None, *, show_header: bool = True) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=show_header)
    table.add_column(first, no_wrap=True)
    return table
