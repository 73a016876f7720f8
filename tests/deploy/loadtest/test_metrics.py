"""Figures from records whose figures are known."""

import json

import pytest
from support.load import answer, scenario
from video_llava_client import ServerInfo
from video_llava_load.counters import compare
from video_llava_load.load import Run
from video_llava_load.metrics import by_kind, by_phase, is_good, summarize
from video_llava_load.report import LATE_MS, dump, run_json, warnings
from video_llava_load.requests import CANCELLED, FAILED, UNFINISHED
from video_llava_load.scenario import Objectives, Phase

NONE = Objectives()
SERVER = ServerInfo("127.0.0.1:1", "2.51.0", (), None)
FAILURE = {"outcome": FAILED, "token_times": [], "num_output_tokens": 0, "stage_seconds": {}}


def test_one_answer_by_hand():
    summary = summarize([answer()], NONE)
    found = {name: figure.average for name, figure in summary.distributions.items()}
    assert found == {
        "time_to_first_token": pytest.approx(100),
        "inter_token_latency": pytest.approx(20),
        "request_latency": pytest.approx(160),
        "output_token_throughput_per_user": pytest.approx(50),
        "output_sequence_length": 4,
        "input_sequence_length": 10,
        "send_lag": pytest.approx(10),
    }
    assert summary.duration_seconds == pytest.approx(0.18)
    assert summary.request_throughput == pytest.approx(1 / 0.18)
    assert summary.output_token_throughput == pytest.approx(4 / 0.18)
    assert (summary.num_input_tokens, summary.num_cached_tokens) == (10, 5)
    assert summary.stage_ms["prefill"] == pytest.approx(20)


def test_tokens_are_counted_not_deltas():
    two_at_once = answer(token_times=[1.11, 1.17], num_output_tokens=4)
    assert two_at_once.inter_token_seconds == pytest.approx(0.02)
    assert summarize([two_at_once], NONE).num_output_tokens == 4


def test_an_answer_of_one_token_has_no_inter_token_latency():
    single = answer(token_times=[1.11], num_output_tokens=1)
    summary = summarize([single], Objectives(inter_token_latency_ms=1))
    assert "inter_token_latency" not in summary.distributions
    assert summary.num_good == 1


def test_percentiles_and_the_rest_of_a_distribution():
    records = [answer(sent=0.0, token_times=[seconds / 1000], num_output_tokens=1) for seconds in range(101)]
    figure = summarize(records, NONE).distributions["time_to_first_token"]
    assert figure.percentiles == {50: pytest.approx(50), 90: pytest.approx(90), 99: pytest.approx(99)}
    assert (figure.minimum, figure.maximum, figure.num_values) == (0, pytest.approx(100), 101)


@pytest.mark.parametrize(
    ("objectives", "good"),
    [
        (NONE, True),
        (Objectives(time_to_first_token_ms=101), True),
        (Objectives(time_to_first_token_ms=99), False),
        (Objectives(time_to_first_token_ms=101, inter_token_latency_ms=19), False),
        (Objectives(request_latency_ms=159), False),
        (Objectives(request_latency_ms=161, inter_token_latency_ms=21), True),
    ],
)
def test_goodput_counts_answers_that_meet_every_objective(objectives, good):
    assert is_good(answer(), objectives) is good
    summary = summarize([answer(), answer(**FAILURE)], objectives)
    assert (summary.num_good, summary.good_share) == (int(good), 0.5 * good)
    assert summary.goodput == pytest.approx(good / 0.18)


def test_what_did_not_end_well_is_counted_and_left_out_of_the_figures():
    records = [
        answer(),
        answer(outcome=CANCELLED, num_output_tokens=2, token_times=[9.0, 9.1]),
        answer(**FAILURE | {"reason": "Unavailable", "message": "full: 1"}),
        answer(**FAILURE | {"reason": "Unavailable", "message": "full: 2"}),
        answer(**FAILURE | {"reason": "Internal", "message": "dead"}),
        answer(outcome=UNFINISHED),
    ]
    summary = summarize(records, NONE)
    counts = (summary.num_sent, summary.num_answered, summary.num_cancelled, summary.num_failed, summary.num_unfinished)
    assert counts == (6, 1, 1, 3, 1)
    assert sum(counts[1:]) == counts[0]
    assert summary.percentile("time_to_first_token", 99) == pytest.approx(100)
    assert (summary.num_output_tokens, summary.num_cancelled_tokens) == (4, 2)
    assert [(e.reason, e.count, e.example) for e in summary.errors] == [
        ("Unavailable", 2, "full: 1"),
        ("Internal", 1, "dead"),
    ]


def test_nothing_at_all():
    summary = summarize([], NONE)
    assert (summary.request_throughput, summary.distributions, summary.goodput) == (0.0, {}, 0.0)
    assert summary.percentile("time_to_first_token", 99) is None


def test_groups_and_warm_ups():
    wanted = scenario(Phase(seconds=1, rate=(1, 1), name="warm-up", warmup=True), Phase(seconds=2, rate=(1, 1)))
    records = [answer(due=0.5), answer(kind="chat"), answer(kind="chat", turn=2), answer(due=99.0, ended=99.2)]
    run = Run(wanted, SERVER, 0.0, records)
    assert {name: found.num_sent for name, found in by_phase(run).items()} == {"warm-up": 1, "phase 2": 3}
    assert {name: found.num_sent for name, found in by_kind(run).items()} == {"chat": 1, "chat, later": 1, "text": 1}
    assert len(run.measured) == 3


def test_the_reader_is_warned():
    late = answer(due=0.0, sent=LATE_MS / 1000 + 0.01)
    told = " ".join(warnings(summarize([late, answer(outcome=UNFINISHED)], NONE)))
    for part in ("late (p99)", "p99 of 1 answers", "1 requests were unfinished"):
        assert part in told
    assert not warnings(summarize([answer()] * 100, NONE))


def test_json_has_aiperfs_names_and_units():
    run = Run(scenario(Phase(seconds=3, rate=(1, 1))), SERVER, 0.0, [answer()])
    told = json.loads(dump(run_json(run, {"vllm:generation_tokens_total": 4.0})))
    for name, unit in {
        "time_to_first_token": "ms",
        "inter_token_latency": "ms",
        "request_latency": "ms",
        "output_sequence_length": "tokens",
        "output_token_throughput_per_user": "tokens/sec/user",
        "request_throughput": "requests/sec",
        "output_token_throughput": "tokens/sec",
        "goodput": "requests/sec",
        "benchmark_duration": "sec",
    }.items():
        assert told[name]["unit"] == unit
        assert told[name]["avg"] > 0
    assert set(told["time_to_first_token"]) >= {"p50", "p90", "p99", "min", "max", "std"}
    assert told["requests"][0]["token_times"] == [1.11, 1.13, 1.15, 1.17]
    assert told["scenario"]["phases"][0]["seconds"] == 3
    assert told["server_counters"] == {"vllm:generation_tokens_total": 4.0}
    assert {"what": "output tokens", "here": 4, "server": 4.0} in told["compared_with_server"]


def test_the_servers_figures_stand_beside_this_tools():
    left = answer(outcome=CANCELLED, num_output_tokens=2)
    refused = answer(**FAILURE, num_input_tokens=0, num_cached_tokens=0)
    grown = {
        "video_llava:requests_total{intake}": 3.0,
        "nv_inference_request_success{video_llava}": 1.0,
        "nv_inference_request_success{relay}": 9.0,
        "video_llava:requests_failed_total{vicuna,CANCELLED}": 1.0,
        "video_llava:requests_failed_total{intake,UNAVAILABLE}": 1.0,
        "vllm:generation_tokens_total{vicuna}": 7.0,
        "vllm:prompt_tokens_total{vicuna}": 20.0,
        "vllm:prefix_cache_hits_total{vicuna}": 10.0,
    }
    rows = {row.what: (row.here, row.server) for row in compare([answer(), left, refused], grown)}
    assert rows == {
        "requests": (3, 3),
        "answered": (1, 1),
        "left by their callers": (1, 1),
        "failed": (1, 1),
        "output tokens": (6, 7),
        "input tokens": (20, 20),
        "of those cached": (10, 10),
    }
