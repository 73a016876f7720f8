"""The plots of the page."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from .load import Run
from .metrics import Summary
from .requests import ANSWERED, CANCELLED, FAILED, Record
from .saturation import Search
from .scenario import PERCENTILES

_COLOURS = {
    "video_cold": "#1f6fb4",
    "video_warm": "#e07b22",
    "image": "#2a9d62",
    "text": "#8a63b8",
    "chat": "#b23a48",
}
_HEIGHT = 340


def plot(name: str, figure: Any) -> str:
    """Return a figure as a part of a page that has plotly's script already; `name` is its id there."""
    return figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config={"displaylogo": False})


def _figure(x: str, y: str, **layout: Any) -> Any:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        height=_HEIGHT,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"orientation": "h", "y": 1.12},
        **layout,
    )
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y, rangemode="tozero")
    return figure


def load_figure(run: Run) -> Any:
    """What was sent, answered and failed each second, and how much was under way."""
    figure = _figure("seconds", "a second", hovermode="x unified")
    step = _step(_end(run))
    edges = np.arange(0.0, _end(run) + step, step)

    def add(name: str, times: Iterable[float], colour: str, dash: str = "solid") -> None:
        counts, _ = np.histogram(list(times), edges)
        line = {"color": colour, "dash": dash}
        figure.add_scatter(x=edges[:-1], y=counts / step, name=name, mode="lines", line=line, line_shape="hv")

    add("sent", (record.due for record in run.records), "#1f6fb4")
    add("answered", (record.ended for record in run.records if record.outcome == ANSWERED), "#2a9d62")
    add("left as planned", (record.ended for record in run.records if record.outcome == CANCELLED), "#8a63b8", "dot")
    add("failed", (record.ended for record in run.records if record.outcome == FAILED), "#c62828")
    times, levels = _under_way(run.records)
    figure.add_scatter(
        x=times,
        y=levels,
        name="under way (right)",
        mode="lines",
        line={"color": "#9aa5b1", "width": 1},
        line_shape="hv",
        yaxis="y2",
    )
    right = {"title": "under way", "overlaying": "y", "side": "right", "rangemode": "tozero", "showgrid": False}
    figure.update_layout(yaxis2=right, margin_r=60)
    _mark_phases(figure, run)
    return figure


def first_token_figure(run: Run) -> Any:
    """Each request's time to first token, by when it was due."""
    figure = _figure("seconds", "milliseconds")
    for kind, records in _kinds(run.records).items():
        answered = [record for record in records if record.first_token_seconds is not None]
        figure.add_scatter(
            x=[record.due for record in answered],
            y=[1000 * (record.first_token_seconds or 0.0) for record in answered],
            name=kind.replace("_", " "),
            mode="markers",
            marker={"size": 5, "color": _COLOURS[kind], "opacity": 0.7},
        )
    _mark_objective(figure, run, "time_to_first_token_ms")
    _mark_phases(figure, run)
    return figure


def distribution_figure(records: Iterable[Record]) -> Any:
    """Which share of the answers is faster than what."""
    figure = _figure("milliseconds (logarithmic)", "share of answers, %", hovermode="x unified")
    figure.update_xaxes(type="log")
    answers = [record for record in records if record.outcome == ANSWERED]
    curves: dict[str, Callable[[Record], float | None]] = {
        "time to first token": lambda record: record.first_token_seconds,
        "inter-token latency": lambda record: record.inter_token_seconds,
        "request latency": lambda record: record.latency_seconds,
    }
    for name, get in curves.items():
        values = np.sort([1000 * value for value in map(get, answers) if value is not None])
        shares = 100 * np.arange(1, len(values) + 1) / max(1, len(values))
        figure.add_scatter(x=values, y=shares, name=name, mode="lines", line_shape="hv")
    for percentile in PERCENTILES:
        figure.add_hline(y=percentile, line={"color": "#c9d0d8", "width": 1, "dash": "dot"})
    return figure


def token_figure(run: Run) -> Any:
    """Tokens a second, of all requests, those that were left too."""
    figure = _figure("seconds", "tokens a second")
    times = [seconds for record in run.records for seconds in record.token_times]
    # A delta may hold several tokens: each counts as its share of the request's.
    weights = [record.num_output_tokens / len(record.token_times) for record in run.records for _ in record.token_times]
    step = _step(_end(run))
    edges = np.arange(0.0, _end(run) + step, step)
    counts, _ = np.histogram(times, edges, weights=weights)
    figure.add_scatter(x=edges[:-1], y=counts / step, mode="lines", fill="tozeroy", line_shape="hv", name="tokens")
    _mark_phases(figure, run)
    return figure


def stage_figure(groups: Mapping[str, Summary]) -> Any:
    """Where the time of an answer goes, for each kind of request."""
    figure = _figure("milliseconds, mean", "", barmode="stack")
    answered = {kind: summary for kind, summary in groups.items() if summary.stage_ms}
    stages = next(iter(answered.values())).stage_ms if answered else {}
    names = [kind.replace("_", " ") for kind in answered]
    for stage in stages:
        values = [summary.stage_ms[stage] for summary in answered.values()]
        figure.add_bar(y=names, x=values, name=stage, orientation="h")
    figure.update_yaxes(autorange="reversed", rangemode="normal")
    return figure


def rates_figure(search: Search) -> Any:
    """The percentiles of a saturation search's figure, by arrival rate."""
    asked = search.asked
    figure = _figure("arrivals a second", f"{asked.metric.replace('_', ' ')}, ms (logarithmic)", hovermode="x unified")
    figure.update_yaxes(type="log", rangemode="normal")
    trials = sorted(search.trials, key=lambda trial: trial.rate)
    for percentile in PERCENTILES:
        figure.add_scatter(
            x=[trial.rate for trial in trials],
            y=[trial.summary.percentile(asked.metric, percentile) for trial in trials],
            name=f"p{percentile}",
            mode="lines+markers",
        )
    figure.add_hline(y=asked.below_ms, line={"color": "#c62828", "dash": "dash"})
    # Of a logarithmic axis an annotation takes the logarithm.
    at = {"x": 1, "xref": "paper", "xanchor": "right", "y": math.log10(asked.below_ms), "yanchor": "bottom"}
    figure.add_annotation(text=str(asked), showarrow=False, **at)
    if search.highest_met is not None:
        figure.add_vline(x=search.highest_met, line={"color": "#2a9d62", "dash": "dot"})
    return figure


def _kinds(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {kind: [] for kind in _COLOURS}
    for record in records:
        groups[record.kind].append(record)
    return {kind: found for kind, found in groups.items() if found}


def _under_way(records: Iterable[Record]) -> tuple[list[float], list[int]]:
    """Return when the number of requests under way changes, and to what."""
    changes = sorted([(r.due, 1) for r in records] + [(r.ended, -1) for r in records])
    return [seconds for seconds, _ in changes], np.cumsum([change for _, change in changes]).tolist()


def _end(run: Run) -> float:
    """Return when the last request ended, in seconds since the beginning."""
    return max((record.ended for record in run.records), default=run.scenario.seconds)


def _step(seconds: float) -> float:
    """Return how long the bars of a plot over time are: at most about 200 of them."""
    return next((step for step in (0.5, 1.0, 2.0, 5.0, 10.0, 30.0) if seconds / step <= 200), 60.0)


def _mark_phases(figure: Any, run: Run) -> None:
    """Let the whole run be the range of a plot over time, the same for each, and mark its phases."""
    figure.update_xaxes(range=[0, _end(run)])
    start = 0.0
    if len(run.scenario.phases) == 1:
        return
    for number, (name, phase) in enumerate(zip(run.scenario.phase_names, run.scenario.phases, strict=True)):
        figure.add_vline(x=start, line={"color": "#c9d0d8", "width": 1, "dash": "dot"})
        figure.add_annotation(
            text=html.escape(name),
            x=start,
            y=1.0 - 0.07 * (number % 2),  # short phases stand close together
            yref="paper",
            showarrow=False,
            xanchor="left",
            yanchor="top",
            font={"size": 11, "color": "#5b6673"},
        )
        start += phase.seconds


def _mark_objective(figure: Any, run: Run, name: str) -> None:
    limit = run.scenario.objectives.given.get(name)
    if limit is not None:
        figure.add_hline(y=limit, line={"color": "#c62828", "width": 1, "dash": "dash"}, annotation_text="objective")
