"""A run, or a search, as JSON for programs; and that JSON as tables on the terminal and in the HTML page."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .counters import compare
from .load import Run
from .metrics import DISTRIBUTIONS, Figures, by_kind, by_phase, percentile, summarize
from .saturation import Search
from .scenario import PERCENTILES

Report = dict[str, Any]

LATE_MS = 100.0
"""p99 of this tool's own send lag above which the report warns."""


def run_json(run: Run, counters: Mapping[str, float] | None = None) -> Report:
    """Return a run: the figures in AIPerf's form, the same by kind and by phase, and each request."""
    total = summarize(run.measured, run.scenario.objectives)
    return {
        **_about(run),
        **total,
        "by_kind": by_kind(run),
        "by_phase": by_phase(run),
        "warnings": warnings(total),
        "interrupted": run.interrupted,
        "server_counters": counters,
        "compared_with_server": None if counters is None else compare(run.records, counters),
        "requests": [asdict(record) for record in run.records],
    }


def search_json(search: Search) -> Report:
    """Return a saturation search of at least one trial, with the figures of each."""
    return {
        **(_about(search.run) if search.run else {}),
        "verdict": verdict(search),
        "highest_rate_met": search.highest_met,
        "lowest_rate_missed": search.lowest_missed,
        "interrupted": search.interrupted,
        "trials": search.trials,
    }


def warnings(figures: Figures) -> list[str]:
    """Return what a reader should know before believing the figures."""
    found = []
    lag, num_answered = percentile(figures, "send_lag", 99), figures["answered_count"]
    if lag is not None and lag > LATE_MS:
        found.append(
            f"this tool sent requests {lag:.0f} ms late (send lag, p99): it, or its machine, is the bottleneck; "
            "use another machine, or lower the rate"
        )
    if 0 < num_answered < 100:
        found.append(f"p99 of {num_answered} answers is close to the largest: run longer for a reliable one")
    if figures["unfinished_count"]:
        found.append(f"{figures['unfinished_count']} requests were unfinished when the run ended, and cancelled")
    return found


def verdict(search: Search) -> str:
    """Return the answer of a saturation search, of at least one trial, as a sentence."""
    came = {trial["rate"]: f"{trial['rate']:.2f} arrivals/s ({trial['offered']:.2f} came)" for trial in search.trials}
    if search.highest_met is None:
        return f"{search.asked}: not met at {came[search.asked.rates[0]]}, the lowest rate tried"
    if search.lowest_missed is None:
        return f"{search.asked}: met up to {came[search.highest_met]}, the highest rate tried"
    interrupted = " (interrupted)" if search.interrupted else ""
    return f"{search.asked}: met at {came[search.highest_met]}, not at {came[search.lowest_missed]}{interrupted}"


def run_parts(report: Report) -> Iterator[Table | Text]:
    """Yield what a report shows of a run, top to bottom."""
    statistics = ("avg", "min", *(f"p{p}" for p in PERCENTILES), "max", "std")
    rows = (
        [f"{name.replace('_', ' ')}, {unit}", *(_number(report[name][statistic]) for statistic in statistics)]
        for name, (unit, _) in DISTRIBUTIONS.items()
        if name in report
    )
    yield _table(["metric", *statistics], rows)
    yield _table(["total", ""], _totals(report))
    yield _groups("kind", report["by_kind"])
    if len(report["scenario"]["phases"]) > 1:
        yield _groups("phase", report["by_phase"])
    if report["compared_with_server"] is not None:
        rows = ([row["what"], str(row["here"]), f"{row['server']:.0f}"] for row in report["compared_with_server"])
        yield _table(["warm-ups included", "seen here", "counted by the server"], rows)
    for error in report["errors"]:
        yield Text(f"{error['count']} x {error['reason']}: {error['example']}", style="red")
    for text in report["warnings"]:
        yield Text(f"note: {text}", style="yellow")


def search_parts(report: Report) -> Iterator[Table | Text]:
    """Yield what a report shows of a saturation search."""
    metric = report["scenario"]["saturation"]["metric"]
    percentiles = [f"p{p}" for p in PERCENTILES]
    rows = (
        [
            *(f"{trial[name]:.2f}" for name in ("rate", "offered", "answered")),
            *(_number(percentile(trial, metric, p)) for p in PERCENTILES),
            str(trial["failed_count"] + trial["unfinished_count"]),
            "{} to {}".format(*trial["under_way"]),
            "yes" if trial["met"] else f"no: {trial['why']}",
        ]
        for trial in report["trials"]
    )
    yield Text(f"{metric.replace('_', ' ')}, ms")
    yield _table(["arrivals/s", "offered", "answered", *percentiles, "failed", "under way", "met"], rows)
    yield Text(report["verdict"])


def page(title: str, parts: Iterable[Table | Text], locust_page: str = "") -> str:
    """Return an HTML page in one file: `parts`, and below them Locust's own report."""
    console = Console(record=True, file=io.StringIO(), width=140)
    for part in parts:
        console.print(part, "")
    style = "font: 13px/1.35 monospace; color: #1c2530; background: #fff; margin: 0; padding: 2em; overflow-x: auto"
    tables = console.export_html(inline_styles=True, code_format="{code}")
    head, body, rest = (locust_page or '<!doctype html><meta charset="utf-8"><body>').rpartition("<body>")
    return f'{head}{body}<pre style="{style}"><b>{html.escape(title)}</b>\n\n{tables}</pre>{rest}'


def _about(run: Run) -> Report:
    limits = run.server.limits
    return {
        "tool": f"video-llava-load {version('video-llava-triton')}",
        "started": datetime.fromtimestamp(run.started, UTC).isoformat(timespec="seconds"),
        "server": {"url": run.server.url, "version": run.server.version, "limits": limits and asdict(limits)},
        "scenario": run.scenario.model_dump(),
    }


def _totals(report: Report) -> Iterator[Sequence[str]]:
    for name in ("request_throughput", "output_token_throughput", "goodput", "benchmark_duration"):
        yield name.replace("_", " "), f"{report[name]['avg']:,.2f} {report[name]['unit']}"
    given = {name: value for name, value in report["scenario"]["objectives"].items() if value is not None}
    yield "  goodput counts", ", ".join(f"{name} <= {value:g}" for name, value in given.items()) or "every answer"
    outcomes = ("sent", "answered", "cancelled", "failed", "unfinished", "good")
    yield "requests", ", ".join(f"{report[f'{outcome}_count']} {outcome}" for outcome in outcomes)
    num_input = report["input_tokens_count"]
    cached = 100 * report["cached_tokens_count"] / max(1, num_input)
    yield "from the prefix cache", f"{cached:.1f} % of {num_input:,} input tokens"
    yield "mean of an answer, ms", ", ".join(f"{stage} {ms:.1f}" for stage, ms in report["stage_ms"].items()) or "-"


def _groups(heading: str, groups: Mapping[str, Figures]) -> Table:
    figures = [(metric, p) for metric in ("time_to_first_token", "inter_token_latency") for p in (50, 99)]
    counts = ("sent", "answered", "failed")
    rows = (
        [
            name,
            *(str(group[f"{count}_count"]) for count in counts),
            *(_number(percentile(group, metric, p)) for metric, p in figures),
            f"{100 * group['good_count'] / max(1, group['sent_count'] - group['cancelled_count']):.0f} %",
        ]
        for name, group in groups.items()
    )
    return _table([heading, *counts, "TTFT p50", "p99, ms", "ITL p50", "p99, ms", "good"], rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(heads[0])
    for head in heads[1:]:  # numbers, apart from tables of two columns, stay whole on a narrow terminal
        table.add_column(head, justify="right" if len(heads) > 2 else "left", no_wrap=len(heads) > 2)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
