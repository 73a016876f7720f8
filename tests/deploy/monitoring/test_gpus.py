"""The dashboard's row GPUs, asked of a real Prometheus that scrapes what Triton writes on a machine with two GPUs."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.prometheus import DASHBOARD, Prometheus, dashboard_queries
from support.waiting import wait_until

METRICS = Path(__file__).with_name("gpu_metrics.txt")
GPUS = set(re.findall(r'gpu_uuid="([^"]+)"', METRICS.read_text(encoding="utf-8")))
QUERIES = [(title, query) for title, query in dashboard_queries(rate_interval="1m") if query.startswith("nv_gpu_")]


class MetricsPort(BaseHTTPRequestHandler):
    """Triton's, with the metrics of GPUs alone."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.end_headers()
        self.wfile.write(METRICS.read_bytes())

    def log_message(self, format, *args): ...  # noqa: A002


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory):
    with ThreadingHTTPServer(("127.0.0.1", 0), MetricsPort) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            target = f"127.0.0.1:{server.server_port}"
            with Prometheus(tmp_path_factory.mktemp("prometheus"), target) as running:
                wait_until(running.is_scraping)
                yield running
        finally:
            server.shutdown()


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_each_gpu_has_a_line(prometheus, title, query):
    found = {labels["gpu_uuid"]: value for labels, value in prometheus.query(query)}
    assert set(found) == GPUS, title


def test_the_row_shows_every_gauge_by_gpu():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    (row,) = (panel["gridPos"]["y"] for panel in panels if panel["title"] == "GPUs")
    targets = [target for panel in panels if panel["gridPos"]["y"] > row for target in panel["targets"]]
    gauges = re.findall(r"^# TYPE (\w+) gauge$", METRICS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(target["expr"].partition("{")[0] for target in targets) == sorted(gauges)
    assert all("{{gpu_uuid}}" in target["legendFormat"] for target in targets)
    assert len(targets) == len(QUERIES)
