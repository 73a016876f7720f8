"""The dashboard is one that Grafana takes. (That its queries give something: tests/server/test_prometheus.py.)"""

import itertools
import json

import pytest
from support.prometheus import DASHBOARD

BOARD = json.loads(DASHBOARD.read_text(encoding="utf-8"))
PANELS = BOARD["panels"]
WIDTH = 24


def test_it_can_be_provisioned():
    # With an id of its own Grafana would look for it in its database.
    assert "id" not in BOARD
    assert BOARD["uid"] == "video-llava"
    assert [panel["id"] for panel in PANELS] == list(range(1, len(PANELS) + 1))


def test_no_panel_lies_over_another():
    taken = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert at["x"] + at["w"] <= WIDTH
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.parametrize("panel", [p for p in PANELS if p["type"] != "row"], ids=lambda panel: panel["title"])
def test_a_panel_says_what_it_shows(panel):
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel["targets"]:
        # Whichever servers are chosen above.
        assert target["expr"].count("{") == target["expr"].count('job=~"$job", instance=~"$instance"')
        assert "[5m]" not in target["expr"]


def test_its_variables_are_those_of_the_queries():
    assert [variable["name"] for variable in BOARD["templating"]["list"]] == ["datasource", "job", "instance"]
