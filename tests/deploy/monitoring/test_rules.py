"""Promtool accepts the rules; its tests of them (alerts.yml) pass, and fail for every alert that is broken."""

import re
from pathlib import Path

import pytest
from support.kubernetes import ROOT, exported_metrics
from support.prometheus import RULES, promtool

ALERTS = Path(__file__).with_name("alerts.yml")
RULES_FILE = RULES / "video-llava.yml"


def test_promtool_accepts_the_rules_and_its_tests_pass():
    for arguments in (["check", "rules", RULES_FILE], ["test", "rules", ALERTS]):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("broken", ["vector(1) == 0", "vector(1)"], ids=["never fires", "always fires"])
def test_the_tests_notice_every_alert_that(broken, tmp_path):
    text = RULES_FILE.read_text(encoding="utf-8")
    alerts = set(re.findall(r"- alert: (\w+)", text))
    rules, count = re.subn(r"(- alert: \w+\n\s+expr: ).+", rf"\g<1>{broken}", text)
    assert count == len(alerts) > 0
    (tmp_path / "rules.yml").write_text(rules, encoding="utf-8")
    tests = re.sub(r"rule_files: .*", "rule_files: [rules.yml]", ALERTS.read_text(encoding="utf-8"))
    (tmp_path / "alerts.yml").write_text(tests, encoding="utf-8")
    done = promtool("test", "rules", tmp_path / "alerts.yml")
    assert done.returncode == 1
    assert set(re.findall(r"alertname: (\w+)", done.stdout + done.stderr)) == alerts


def test_the_readme_describes_every_metric_of_the_code():
    readme = (ROOT / "deploy/monitoring/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`((?:vllm|video_llava):\w+)`", readme)) == exported_metrics()
