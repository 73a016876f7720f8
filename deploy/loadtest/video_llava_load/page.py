"""A page with plots: one HTML file with all that it needs in it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from plotly.offline import get_plotlyjs

from .counters import compare
from .load import Run
from .metrics import Summary, by_kind, by_phase, summarize
from .plots import distribution_figure, first_token_figure, load_figure, plot, rates_figure, stage_figure, token_figure
from .report import COMPARED, label, under_way_text, verdict, warnings
from .saturation import Search
from .scenario import PERCENTILES

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2530; background: #fff; max-width: 1140px; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.5em; margin-bottom: 0; } h2 { font-size: 1.15em; margin: 2em 0 .3em; }
p.about { color: #5b6673; margin-top: .2em; }
p.warning { background: #fff4d6; border-left: 4px solid #e0a800; padding: .4em .8em; }
.tiles { display: flex; flex-wrap: wrap; gap: .8em; margin: 1em 0; }
.tile { border: 1px solid #dde2e8; border-radius: 6px; padding: .6em .9em; max-width: 10.5em; }
.tile b { display: block; font-size: 1.35em; } .tile span { color: #5b6673; font-size: .87em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .8em .2em 0; text-align: right; border-bottom: 1px solid #e6eaef; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } th { color: #5b6673; font-weight: 600; }
td.text { white-space: normal; text-align: left; }
.scroll { overflow-x: auto; }
"""


def run_page(run: Run, counters: Mapping[str, float] | None = None) -> str:
    """Return the page of a run."""
    total = summarize(run.measured, run.scenario.objectives)
    phases = run.scenario.phases
    parts = [
        _tiles(total),
        *(f'<p class="warning">{html.escape(text)}</p>' for text in warnings(total)),
        _section("Latency", _latency_table(total)),
        _section("By kind of request, milliseconds", _groups_table("kind", by_kind(run))),
        _section("By phase, milliseconds", _groups_table("phase", by_phase(run))) if len(phases) > 1 else "",
        _section("Errors", _errors_table(total)) if total.errors else "",
        _section("Load over time", plot("load", load_figure(run))),
        _section("Time to first token over time", plot("first-token", first_token_figure(run))),
        _section("How many answers are faster", plot("distributions", distribution_figure(run.measured))),
        _section("Output tokens over time", plot("tokens", token_figure(run))),
        _section("Where the time of an answer goes, by kind", plot("stages", stage_figure(by_kind(run)))),
        _server_section(run, counters) if counters is not None else "",
    ]
    loop = "open loop" if run.scenario.is_open else "closed loop"
    about = (
        f"{run.scenario.name}, {loop}, {run.scenario.seconds:g} s, on {run.server.url} (Triton {run.server.version})"
    )
    return _page(f"Load: {run.scenario.name}", f"{about}. Objectives: {run.scenario.objectives}.", parts)


def search_page(search: Search) -> str:
    """Return the page of a saturation search that had at least one trial."""
    trials = sorted(search.trials, key=lambda trial: trial.rate)
    rows = [
        [
            f"{trial.rate:.2f}",
            f"{trial.offered:.2f}",
            f"{trial.answered:.2f}",
            *(_number(trial.summary.percentile(search.asked.metric, p)) for p in PERCENTILES),
            str(trial.summary.num_failed + trial.summary.num_unfinished),
            under_way_text(trial),
            "yes" if trial.met else f"no: {trial.why}",
        ]
        for trial in trials
    ]
    heads = ["arrivals/s", "offered", "answered/s", *(f"p{p}, ms" for p in PERCENTILES), "failed", "under way", "met"]
    parts = [
        f"<p><b>{html.escape(verdict(search))}</b></p>",
        plot("rates", rates_figure(search)),
        _section("Trials", _table(heads, rows)),
    ]
    run = trials[0].run
    return _page("Saturation", f"{run.scenario.name} on {run.server.url} (Triton {run.server.version}).", parts)


def _page(title: str, about: str, parts: Iterable[str]) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><script>{get_plotlyjs()}</script></head>\n"
        f'<body><h1>{html.escape(title)}</h1><p class="about">{html.escape(about)}</p>\n'
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{content}"


def _tiles(total: Summary) -> str:
    facts = [
        (f"{total.request_throughput:.2f}", "requests/sec answered"),
        (f"{total.goodput:.2f}", f"requests/sec goodput ({total.num_good} answers)"),
        (f"{total.output_token_throughput:,.0f}", "output tokens/sec"),
        (_number(total.percentile("time_to_first_token", 99)) + " ms", "time to first token p99"),
        (_number(total.percentile("inter_token_latency", 99)) + " ms", "inter-token latency p99"),
        (str(total.num_failed + total.num_unfinished), f"failed or unfinished, {total.num_cancelled} left as planned"),
    ]
    tiles = (f'<div class="tile"><b>{value}</b><span>{html.escape(name)}</span></div>' for value, name in facts)
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _latency_table(total: Summary) -> str:
    rows = []
    for name, found in total.distributions.items():
        values = (found.average, found.minimum, *found.percentiles.values(), found.maximum, found.std)
        rows.append([label(name, found.unit), *map(_number, values)])
    return _table(["", "avg", "min", *(f"p{p}" for p in PERCENTILES), "max", "std"], rows)


def _groups_table(head: str, groups: Mapping[str, Summary]) -> str:
    rows = []
    for name, summary in groups.items():
        figures = [
            summary.percentile(metric, p)
            for metric in ("time_to_first_token", "inter_token_latency", "request_latency")
            for p in (50, 99)
        ]
        counts = (summary.num_sent, summary.num_answered, summary.num_cancelled, summary.num_failed)
        rows.append([name, *map(str, counts), *map(_number, figures), f"{100 * summary.good_share:.0f} %"])
    heads = [f"{metric} p{p}" for metric in ("TTFT", "ITL", "latency") for p in (50, 99)]
    return _table([head, "sent", "answered", "cancelled", "failed", *heads, "good"], rows)


def _errors_table(total: Summary) -> str:
    return _table(["reason", "requests", "the first one"], [[e.reason, str(e.count), e.example] for e in total.errors])


def _server_section(run: Run, counters: Mapping[str, float]) -> str:
    compared = [[row.what, f"{row.here:,}", f"{row.server:,.0f}"] for row in compare(run.records, counters)]
    all_rows = [[name, f"{value:,.0f}"] for name, value in sorted(counters.items())]
    return (
        _section("This tool's figures and the server's", _table(["", "seen here", "counted by the server"], compared))
        + f'<p class="about">{html.escape(COMPARED)}</p>'
        + f"<details><summary>All counters that grew</summary>{_table(['', ''], all_rows)}</details>"
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(text: str) -> str:
    kind = ' class="text"' if len(text) > 60 else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"
