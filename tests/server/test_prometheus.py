"""A real Prometheus asks the real server: whatever dashboard and rules name is there, and says what happened."""

import re

import numpy as np
import pytest
from support import slow_steps
from support.prometheus import DASHBOARD, Prometheus, dashboard_queries
from video_llava_client import InvalidRequest

GREEDY = {"max_tokens": 6, "temperature": 0}
METRIC = re.compile(r"\b(?:(?:vllm|video_llava):\w+|job(?:_code_reason)?:\w+:\w+|nv_\w+|up\b)")
# Here is none; tests/deploy/monitoring/test_gpus.py has recorded series.
OF_GPUS = "nv_gpu_"


def ask_all_kinds(client):
    """Videos and images, twice each, a request that is refused and one that is cancelled."""
    random = np.random.default_rng(20_261_124)
    for _ in range(3):
        video, image = (random.integers(0, 256, (*frames, 56, 56, 3), np.uint8) for frames in ([8], []))
        for _ in range(2):
            client.ask("What happens?", video=video, **GREEDY)
            client.ask("What is it?", images=image, **GREEDY)
    with pytest.raises(InvalidRequest):
        client.ask("What?", sampling={"top_p": 7})
    endless = {"ignore_eos": True, "seed": slow_steps.SEED}
    with client.stream("What?", max_tokens=400, temperature=0, sampling=endless) as stream:
        next(iter(stream))


@pytest.fixture(scope="module")
def prometheus(server, client, wait_for, tmp_path_factory):
    """One that has seen the server before and after each kind of request."""
    target = server.metrics_url.removeprefix("http://").removesuffix("/metrics")
    with Prometheus(tmp_path_factory.mktemp("prometheus"), target) as running:
        wait_for(running.is_scraping)
        ask_all_kinds(client)
        cancelled = 'increase(video_llava:requests_failed_total{code="CANCELLED"}[1m]) > 0'
        wait_for(lambda: bool(running.query(cancelled)))
        wait_for(lambda: all(rule["health"] != "unknown" for rule in running.rules()))
        recorded = [rule["name"] for rule in running.rules() if rule["type"] == "recording"]
        wait_for(lambda: all(running.query(name) for name in recorded))
        yield running


def test_every_metric_of_dashboard_and_rules_exists(prometheus):
    queries = [rule["query"] for rule in prometheus.rules()]
    names = METRIC.findall(DASHBOARD.read_text(encoding="utf-8") + "\n".join(queries))
    wanted = {name for name in names if not name.startswith(OF_GPUS)}
    assert len(wanted) > 25
    assert wanted - set(prometheus.get("label/__name__/values")) == set()


@pytest.mark.parametrize(
    ("title", "query"), [each for each in dashboard_queries(rate_interval="1m") if OF_GPUS not in each[1]]
)
def test_every_query_of_the_dashboard_gives_numbers(prometheus, title, query):
    values = [value for _, value in prometheus.query(query)]
    assert np.isfinite(values).any(), title


def test_the_rules_are_evaluated_and_a_server_in_order_alerts_nobody(prometheus):
    assert {rule["health"] for rule in prometheus.rules()} == {"ok"}
    assert [rule["name"] for rule in prometheus.rules() if rule.get("state") == "firing"] == []


def test_the_figures_fit_each_other(prometheus):
    def total(query):
        return sum(value for _, value in prometheus.query(query))

    assert total("video_llava:requests_total") >= 14
    assert total("video_llava:video_frames_total") >= 8 * total("video_llava:video_requests_total") > 0
    assert total("video_llava:image_frames_total") >= total("video_llava:image_requests_total") > 0
    assert total("vllm:request_success_total") >= total("vllm:request_decode_time_seconds_count") > 0
    for name in ("vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds", "video_llava:encode_seconds"):
        assert total(f"{name}_count") == total(f'{name}_bucket{{le="+Inf"}}') > 0
        assert total(f"{name}_sum") > 0
    for code in ("INVALID_ARGUMENT", "CANCELLED"):
        assert total(f'video_llava:requests_failed_total{{model="vicuna",code="{code}"}}') >= 1
