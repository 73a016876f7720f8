"""Grafana accepts the dashboard. (That its queries give something: tests/server/test_prometheus.py.)"""

import itertools
import json

from support.prometheus import DASHBOARD

BOARD = json.loads(DASHBOARD.read_text(encoding="utf-8"))
PANELS = BOARD["panels"]
WIDTH = 24


def test_it_can_be_provisioned():
    assert "id" not in BOARD  # it would name a row of Grafana's database
    assert BOARD["uid"] == "video-llava"
    assert [panel["id"] for panel in PANELS] == list(range(1, len(PANELS) + 1))
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "job", "instance"]


def test_no_panel_covers_another():
    taken = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= WIDTH
        assert not cells & taken, panel["title"]
        taken |= cells


def test_a_panel_says_what_it_shows_and_obeys_the_variables():
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
            for query in (target["expr"] for target in panel["targets"]):
                assert query.count("{") == query.count('job=~"$job", instance=~"$instance"'), query
                assert "[5m]" not in query  # $__rate_interval
