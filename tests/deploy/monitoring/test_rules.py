"""Prometheus' own tool accepts the rules, and its unit tests of them pass, and notice a rule that is gone."""

import re
from pathlib import Path

import pytest
from support.prometheus import RULES, promtool

ALERTS = Path(__file__).with_name("alerts.yml")
RULES_FILE = RULES / "video-llava.yml"
NAMES = re.findall(r"- alert: (\w+)", RULES_FILE.read_text(encoding="utf-8"))


def test_promtool_accepts_the_rules():
    checked = promtool("check", "rules", RULES_FILE)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_promtools_unit_tests_of_the_rules_pass():
    tested = promtool("test", "rules", ALERTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("alert", NAMES)
@pytest.mark.parametrize("broken", ["vector(1) == 0", "vector(1)"], ids=["never comes", "always comes"])
def test_they_notice_an_alert_that(alert, broken, tmp_path):
    rules, count = re.subn(
        rf"(- alert: {alert}\n\s+expr: ).+", rf"\g<1>{broken}", RULES_FILE.read_text(encoding="utf-8")
    )
    assert count == 1
    (tmp_path / "rules.yml").write_text(rules, encoding="utf-8")
    tests = re.sub(r"rule_files: .*", "rule_files: [rules.yml]", ALERTS.read_text(encoding="utf-8"))
    (tmp_path / "alerts.yml").write_text(tests, encoding="utf-8")
    tested = promtool("test", "rules", tmp_path / "alerts.yml")
    assert tested.returncode == 1
    assert f"alertname: {alert}" in tested.stdout + tested.stderr
