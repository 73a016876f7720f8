"""Draw the dashboard's panels from a Prometheus' data, without Grafana: to look at, after a change.

python tests/deploy/monitoring/draw_dashboard.py http://localhost:9090 dashboard.png --seconds 300

Ends with exit code 1, and their titles, where panels have nothing to show.
"""

import argparse
import json
import re
import sys
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import matplotlib

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.prometheus import DASHBOARD, as_promql

_GRID_WIDTH = 24
_ROW_INCHES = 0.42
_NUM_POINTS = 300
# Grafana's units: by how much to multiply, and what to write behind.
_UNITS = {
    "reqps": (1, "requests/s"),
    "ops": (1, "/s"),
    "percentunit": (100, "%"),
    "s": (1, "s"),
    "µs": (0.001, "ms"),
    "bytes": (2**-30, "GiB"),
    "none": (1, ""),
}
_COUNT = "count:"  # and a word of one's own
_INTERVAL = re.compile(r"(\d+)(ms|s|m|h)")


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="how far back (default: %(default)s)")
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    source = Source(arguments.prometheus, arguments.seconds)
    figure, empty = draw(board["panels"], source)
    figure.savefig(arguments.picture, dpi=100)
    if empty:
        sys.exit(f"nothing to show: {', '.join(empty)}")


@dataclass(frozen=True)
class Line:
    """One series of a panel: seconds before now (negative) and values, NaN where there is none."""

    legend: str
    times: list[float]
    values: list[float]


class Source:
    """A Prometheus, asked as Grafana asks it."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self.seconds = seconds
        self._now = time.time()
        targets = self._get("targets", state="active")["activeTargets"]
        scrape = max((_seconds(target["scrapeInterval"]) for target in targets), default=15.0)
        self._step = max(scrape, seconds / _NUM_POINTS)
        # Grafana's own rule for $__rate_interval.
        self._rate_interval = f"{max(self._step + scrape, 4 * scrape):.0f}s"

    def lines(self, panel: dict[str, Any]) -> list[Line]:
        """Return what a panel shows."""
        return [
            Line(_legend(target["legendFormat"], series["metric"]), *self._points(series["values"]))
            for target in panel["targets"]
            for series in self._series(target["expr"])
        ]

    def _points(self, values: list[tuple[float, str]]) -> tuple[list[float], list[float]]:
        return [t - self._now for t, _ in values], [float(value) for _, value in values]

    def _series(self, expression: str) -> Any:
        query = as_promql(expression, rate_interval=self._rate_interval)
        return self._get("query_range", query=query, start=self._now - self.seconds, end=self._now, step=self._step)[
            "result"
        ]

    def _get(self, path: str, **query: str | float) -> Any:
        address = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)["data"]


def draw(panels: list[dict[str, Any]], source: Source) -> tuple[Any, list[str]]:
    """Return the figure, panels where Grafana puts them, and the titles of those without data."""
    from matplotlib import pyplot

    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(18, height * _ROW_INCHES))
    empty = []
    for panel in panels:
        at = panel["gridPos"]
        box = (at["x"] / _GRID_WIDTH, 1 - (at["y"] + at["h"]) / height, at["w"] / _GRID_WIDTH, at["h"] / height)
        if panel["type"] == "row":
            figure.text(0.005, box[1] + box[3] / 3, panel["title"], weight="bold", size=13)
            continue
        lines = source.lines(panel)
        if all(isnan(value) for line in lines for value in line.values):
            empty.append(panel["title"])
        (_draw_number if panel["type"] == "stat" else _draw_lines)(figure.add_axes(_inside(box)), panel, lines)
    return figure, empty


def _inside(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, bottom, width, height = box
    return left + 0.1 * width, bottom + 0.1 * height, 0.86 * width, 0.74 * height


def _draw_number(axes: Any, panel: dict[str, Any], lines: list[Line]) -> None:
    """The newest value, in the colour of the highest threshold that it has passed."""
    factor, unit = _unit(panel)
    axes.set_title(panel["title"], size=10)
    axes.axis("off")
    newest = next((value for line in lines for value in reversed(line.values) if not isnan(value)), None)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    passed = [step["color"] for step in steps if step["value"] is None or (newest or 0.0) >= step["value"]]
    text = "No data" if newest is None else f"{factor * newest:.3g} {unit}"
    axes.text(0.5, 0.5, text, size=20, color=passed[-1], ha="center", va="center", transform=axes.transAxes)


def _draw_lines(axes: Any, panel: dict[str, Any], lines: list[Line]) -> None:
    factor, unit = _unit(panel)
    axes.set_title(f"{panel['title']}, {unit}" if unit else panel["title"], size=10)
    style = panel["fieldConfig"]["defaults"]["custom"]
    is_stacked = style["stacking"]["mode"] == "normal"
    colours = {override["matcher"]["options"]: _colour(override) for override in panel["fieldConfig"]["overrides"]}
    below: dict[float, float] = {}
    for number, line in enumerate(lines):
        colour = colours.get(line.legend, f"C{number}")
        values = [factor * value for value in line.values]
        if is_stacked:
            bottoms = [below.get(t, 0.0) for t in line.times]
            shown = (0.0 if isnan(value) else value for value in values)
            values = [bottom + value for bottom, value in zip(bottoms, shown, strict=True)]
            below |= zip(line.times, values, strict=True)
            alpha = style["fillOpacity"] / 100
            axes.fill_between(line.times, bottoms, values, alpha=alpha, color=colour, label=line.legend, linewidth=0)
        else:
            axes.plot(line.times, values, label=line.legend, linewidth=style["lineWidth"], color=colour)
    highest = panel["fieldConfig"]["defaults"].get("max")
    axes.set_ylim(bottom=0, top=highest and factor * highest)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if lines:
        axes.legend(fontsize=7, loc="upper left")
    else:
        axes.text(0.5, 0.5, "No data", size=14, ha="center", va="center", transform=axes.transAxes)


def _colour(override: dict[str, Any]) -> str:
    (color,) = (value["value"] for value in override["properties"] if value["id"] == "color")
    return color["fixedColor"]


def _unit(panel: dict[str, Any]) -> tuple[float, str]:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    return (1, unit.removeprefix(_COUNT)) if unit.startswith(_COUNT) else _UNITS[unit]


def _seconds(interval: str) -> float:
    """Return the seconds of an interval that Prometheus writes, such as "1m30s"."""
    scales = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    return sum(float(number) * scales[unit] for number, unit in _INTERVAL.findall(interval))


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


if __name__ == "__main__":
    main()
