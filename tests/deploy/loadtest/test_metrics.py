"""Figures, warnings, JSON and page from records whose figures are known."""

import json

import pytest
from support.load import answer, scenario
from video_llava_client import ServerInfo
from video_llava_load.counters import compare, read_growth
from video_llava_load.load import Run
from video_llava_load.metrics import by_kind, by_phase, is_good, percentile, summarize
from video_llava_load.report import LATE_MS, page, run_json, run_parts, search_json, search_parts, warnings
from video_llava_load.requests import CANCELLED, FAILED, UNFINISHED
from video_llava_load.saturation import Search, judge
from video_llava_load.scenario import Objectives, Phase

NONE = Objectives()
SERVER = ServerInfo("127.0.0.1:1", "2.51.0", (), None)
FAILURE = {"outcome": FAILED, "token_times": [], "num_output_tokens": 0, "stage_seconds": {}}
NASTY = "</script><script>alert(1)</script>[/red]"


PHASES = (Phase(seconds=3, rate=(1, 1)),)


def run_of(*records, phases=PHASES) -> Run:
    return Run(scenario(*phases), SERVER, 0.0, list(records))


def test_one_answer_by_hand_with_aiperfs_names_and_units():
    report = json.loads(json.dumps(run_json(run_of(answer()), {"vllm:generation_tokens_total": 4.0})))
    figures = {name: value for name, value in report.items() if isinstance(value, dict) and "unit" in value}
    assert {name: (value["unit"], round(value["avg"], 6)) for name, value in figures.items()} == {
        "time_to_first_token": ("ms", 100),
        "inter_token_latency": ("ms", 20),
        "request_latency": ("ms", 160),
        "output_token_throughput_per_user": ("tokens/sec/user", 50),
        "output_sequence_length": ("tokens", 4),
        "input_sequence_length": ("tokens", 10),
        "send_lag": ("ms", 10),
        "request_throughput": ("requests/sec", round(1 / 0.18, 6)),
        "output_token_throughput": ("tokens/sec", round(4 / 0.18, 6)),
        "goodput": ("requests/sec", round(1 / 0.18, 6)),
        "benchmark_duration": ("sec", 0.18),
    }
    assert set(report["time_to_first_token"]) == {"unit", "avg", "p50", "p90", "p99", "min", "max", "std", "count"}
    assert (report["input_tokens_count"], report["cached_tokens_count"]) == (10, 5)
    assert report["stage_ms"]["prefill"] == pytest.approx(20)
    assert report["requests"][0]["token_times"] == [1.11, 1.13, 1.15, 1.17]
    assert report["scenario"]["phases"][0]["seconds"] == 3
    assert {"what": "output tokens", "here": 4, "server": 4.0} in report["compared_with_server"]


def test_tokens_are_counted_not_deltas_and_one_has_no_inter_token_latency():
    assert answer(token_times=[1.11, 1.17], num_output_tokens=4).inter_token_seconds == pytest.approx(0.02)
    figures = summarize([answer(token_times=[1.11], num_output_tokens=1)], Objectives(inter_token_latency_ms=1))
    assert "inter_token_latency" not in figures
    assert (figures["good_count"], figures["output_tokens_count"]) == (1, 1)


def test_percentiles():
    records = [answer(sent=0.0, token_times=[seconds / 1000], num_output_tokens=1) for seconds in range(101)]
    figure = summarize(records, NONE)["time_to_first_token"]
    values = (figure[name] for name in ("p50", "p90", "p99", "min", "max", "count"))
    assert list(values) == pytest.approx([50, 90, 99, 0, 100, 101])


@pytest.mark.parametrize(
    ("objectives", "good"),
    [
        (NONE, True),
        (Objectives(time_to_first_token_ms=99), False),
        (Objectives(time_to_first_token_ms=101, inter_token_latency_ms=19), False),
        (Objectives(request_latency_ms=159), False),
        (Objectives(request_latency_ms=161, inter_token_latency_ms=21), True),
    ],
)
def test_goodput_counts_answers_that_meet_every_objective(objectives, good):
    assert is_good(answer(), objectives) is good
    figures = summarize([answer(), answer(**FAILURE)], objectives)
    assert figures["good_count"] == good
    assert figures["goodput"]["avg"] == pytest.approx(good / 0.18)


def test_only_answers_count_for_the_figures():
    records = [
        answer(),
        answer(outcome=CANCELLED, num_output_tokens=2, token_times=[9.0, 9.1]),
        answer(**FAILURE | {"reason": "Unavailable", "message": "full: 1"}),
        answer(**FAILURE | {"reason": "Unavailable", "message": "full: 2"}),
        answer(**FAILURE | {"reason": "Internal", "message": "dead"}),
        answer(outcome=UNFINISHED),
    ]
    figures = summarize(records, NONE)
    outcomes = ("sent", "answered", "cancelled", "failed", "unfinished")
    assert [figures[f"{outcome}_count"] for outcome in outcomes] == [6, 1, 1, 3, 1]
    assert percentile(figures, "time_to_first_token", 99) == pytest.approx(100)
    assert (figures["output_tokens_count"], figures["cancelled_tokens_count"]) == (4, 2)
    assert [tuple(error.values()) for error in figures["errors"]] == [
        ("Unavailable", 2, "full: 1"),
        ("Internal", 1, "dead"),
    ]


def test_groups_and_warm_ups():
    phases = (Phase(seconds=1, rate=(1, 1), name="warm-up", warmup=True), Phase(seconds=2, rate=(1, 1)))
    records = [answer(due=0.5), answer(kind="chat"), answer(kind="chat", turn=2), answer(due=99.0, ended=99.2)]
    run = run_of(*records, phases=phases)
    assert {name: found["sent_count"] for name, found in by_phase(run).items()} == {"warm-up": 1, "phase 2": 3}
    assert {name: found["sent_count"] for name, found in by_kind(run).items()} == {
        "chat": 1,
        "chat, later": 1,
        "text": 1,
    }


def test_the_reader_is_warned():
    late = answer(due=0.0, sent=LATE_MS / 1000 + 0.01)
    text = " ".join(warnings(summarize([late, answer(outcome=UNFINISHED)], NONE)))
    for part in ("send lag, p99", "p99 of 1 answers", "1 requests were unfinished"):
        assert part in text
    assert not warnings(summarize([answer()] * 100, NONE))


def test_counters_grow_or_begin_at_0_after_a_restart(tmp_path):
    metrics = tmp_path / "metrics"
    lines = (
        "# TYPE vllm:generation_tokens_total counter",
        'vllm:generation_tokens_total{model="vicuna",version="1"} 7.0',
        'nv_cache_num_hits_per_model{model="video_features",version="1"} 3',
        'video_llava:requests_failed_total{code="CANCELLED",model="intake"} 1',
        'nv_gpu_utilization{gpu_uuid="x"} 0.5',
    )
    metrics.write_text("\n".join(lines))
    before = {"vllm:generation_tokens_total{vicuna}": 5.0, "nv_cache_num_hits_per_model{video_features}": 4.0}
    assert read_growth(metrics.as_uri(), before) == {
        "vllm:generation_tokens_total{vicuna}": 2.0,
        "nv_cache_num_hits_per_model{video_features}": 3.0,
        "video_llava:requests_failed_total{intake,CANCELLED}": 1.0,
    }


def test_the_servers_figures_stand_beside_this_tools():
    cancelled = answer(outcome=CANCELLED, num_output_tokens=2)
    refused = answer(**FAILURE, num_input_tokens=0, num_cached_tokens=0)
    growth = {
        "video_llava:requests_total{intake}": 3.0,
        "nv_inference_request_success{video_llava}": 1.0,
        "nv_inference_request_success{relay}": 9.0,
        "video_llava:requests_failed_total{vicuna,CANCELLED}": 1.0,
        "video_llava:requests_failed_total{intake,UNAVAILABLE}": 1.0,
        "vllm:generation_tokens_total{vicuna}": 7.0,
        "vllm:prompt_tokens_total{vicuna}": 20.0,
        "vllm:prefix_cache_hits_total{vicuna}": 10.0,
    }
    assert [tuple(row.values()) for row in compare([answer(), cancelled, refused], growth)] == [
        ("requests", 3, 3),
        ("answered", 1, 1),
        ("left by their callers", 1, 1),
        ("failed", 1, 1),
        ("output tokens", 6, 7),
        ("input tokens", 20, 20),
        ("of those cached", 10, 10),
    ]


def test_the_page_holds_all_tables_and_trusts_no_text():
    failed = answer(**FAILURE | {"reason": "Internal", "message": NASTY})
    phases = (Phase(seconds=1, rate=(1, 1), name=NASTY), Phase(seconds=1, rate=(1, 1)))
    records = (failed, answer(due=0.5), answer(kind="chat", turn=2))
    report = run_json(run_of(*records, phases=phases), {})
    text = page(NASTY, run_parts(report))
    for part in ("time to first token, ms", "100.0", "chat, later", "phase 2", "counted by the server", "Internal"):
        assert part in text
    assert text.count("&lt;script&gt;alert(1)") == 3
    assert "<script>" not in text


def test_a_run_and_a_search_without_an_answer_have_a_page_too():
    assert "0 answered" in page("none", run_parts(run_json(run_of())))
    run, search = run_of(), Search(scenario(Phase(seconds=1, rate=(1, 1))).saturation)
    search.add(judge(run, 0.5), run)
    assert "not met at 0.50 arrivals/s" in page("none", search_parts(search_json(search)))
