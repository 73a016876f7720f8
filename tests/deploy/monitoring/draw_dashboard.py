"""Draw the dashboard's panels from a Prometheus' data, without Grafana: to look at, after a change.

python tests/deploy/monitoring/draw_dashboard.py http://localhost:9090 dashboard.png --seconds 300
"""

import argparse
import json
import sys
import time
import urllib.parse
import urllib.request
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from support.prometheus import DASHBOARD, as_promql

pyplot: Any = import_module("matplotlib.pyplot")

_GRID_WIDTH = 24
_ROW_INCHES = 0.4
_SCALES = {"percentunit": (100, "%"), "s": (1, "s"), "µs": (1, "µs"), "bytes": (2**-30, "GiB")}


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seconds", type=float, default=300, help="how far back (default: %(default)s)")
    arguments = parser.parse_args()
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    draw(board["panels"], arguments.prometheus, arguments.seconds).savefig(arguments.picture, dpi=90)


def draw(panels: list[dict[str, Any]], prometheus: str, seconds: float) -> Any:
    """Return the figure: panels where Grafana puts them, newest value in the small ones."""
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = pyplot.figure(figsize=(18, height * _ROW_INCHES))
    for panel in panels:
        at = panel["gridPos"]
        box = (at["x"] / _GRID_WIDTH, 1 - (at["y"] + at["h"]) / height, at["w"] / _GRID_WIDTH, at["h"] / height)
        if panel["type"] == "row":
            figure.text(0.005, box[1] + box[3] / 3, panel["title"], weight="bold", size=13)
        else:
            _draw_panel(figure.add_axes(_inside(box)), panel, prometheus, seconds)
    return figure


def _inside(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, bottom, width, height = box
    return left + 0.12 * width, bottom + 0.16 * height, 0.83 * width, 0.66 * height


def _draw_panel(axes: Any, panel: dict[str, Any], prometheus: str, seconds: float) -> None:
    scale, unit = _SCALES.get(panel["fieldConfig"]["defaults"]["unit"], (1, ""))
    lines: dict[str, tuple[Any, Any]] = {}
    for target in panel["targets"]:
        for series in _query_range(prometheus, target["expr"], seconds):
            times, values = zip(*((t - time.time(), scale * float(v)) for t, v in series["values"]), strict=True)
            lines[_legend(target["legendFormat"], series["metric"])] = (times, values)
    axes.set_title(f"{panel['title']} ({unit})" if unit else panel["title"], size=10)
    if panel["type"] == "stat":
        newest = next((values[-1] for _, values in lines.values()), float("nan"))
        axes.text(0.5, 0.5, f"{newest:.3g}", size=22, ha="center", va="center", transform=axes.transAxes)
        axes.axis("off")
        return
    for legend, (times, values) in lines.items():
        axes.plot(times, values, label=legend, linewidth=1)
    axes.set_ylim(bottom=0)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=7, loc="upper left")


def _query_range(prometheus: str, expression: str, seconds: float) -> Any:
    now = time.time()
    query = {"query": as_promql(expression, rate_interval="15s"), "start": now - seconds, "end": now, "step": 1}
    address = f"{prometheus}/api/v1/query_range?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


if __name__ == "__main__":
    main()
