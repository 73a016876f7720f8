"""The report as a picture: throughput and time to first token of every contestant."""

from pathlib import Path
from typing import Any

import matplotlib

from .report import Figures, Report
from .table import NAMES, WORKLOADS


def write_plot(report: Report, path: Path) -> None:
    """Write `path` in the format that its ending names."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(WORKLOADS), figsize=(15, 8), layout="constrained")
    for column, (workload, title) in enumerate(WORKLOADS.items()):
        rows = [row for row in report.figures if row.workload == workload]
        _draw_bars(axes[0][column], rows, [row.requests_per_second for row in rows], f"{title}: requests/s")
        _draw_bars(axes[1][column], rows, [row.first_token_seconds for row in rows], "TTFT, s")
    figure.savefig(path, dpi=100)


def _draw_bars(axes: Any, rows: list[Figures], values: list[float], title: str) -> None:
    labels = [f"{NAMES[row.contestant]}, {row.concurrency}" for row in rows]
    colors = ["tab:orange" if row.contestant == "triton" else "tab:gray" for row in rows]
    axes.set_title(title)
    axes.bar_label(axes.barh(labels, values, color=colors), fmt="%.3g")
    axes.margins(x=0.15)  # for the labels
    axes.invert_yaxis()
