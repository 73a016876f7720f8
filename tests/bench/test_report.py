"""The arithmetic of the bench, on made-up measurements."""

import json

import pytest
from rich.console import Console

from bench.arithmetic import decode_bytes, encoder_flops, layer_weights, prefill_flops
from bench.load import Stopwatch
from bench.records import Answered, Result, Run
from bench.report import Figures, Report
from bench.shapes import Shape
from bench.startup import startup_seconds
from bench.table import print_report
from bench.workloads import QUESTIONS_PER_VIDEO, Size, Workbook

# Video-LLaVA-7B.
SEVEN_B = Shape(tower_width=1024, tower_layers=24, width=4096, layers=32, mlp_width=11_008, kv_heads=32)
SMALL = Shape(tower_width=128, tower_layers=3, width=256, layers=3, mlp_width=704, kv_heads=2)
MACHINE = {
    "num_processors": 2,
    "memory_bytes": 2e10,
    "load_average": 0.1,
    "gemm_fp32": 1e11,
    "gemm_fp32_wide": 2e11,
    "gemm_bf16": 4e11,
    "memory_bandwidth": 1e10,
}
STAGES = {"encoder": 1.0, "encoder_wide": 1.0, "encoder_wide_int8": 0.5}


def test_the_7b_has_its_known_size():
    assert 32 * layer_weights(SEVEN_B) == pytest.approx(6.48e9, rel=0.01)
    assert prefill_flops(SEVEN_B, num_positions=2056) == pytest.approx(27.7e12, rel=0.02)
    assert encoder_flops(SEVEN_B) == pytest.approx(1.33e12, rel=0.02)


def test_a_token_reads_all_weights_and_the_cache():
    without, with_cache = (decode_bytes(SEVEN_B, num_positions=count) for count in (0, 2056))
    assert without == pytest.approx(13.0e9, rel=0.01)
    assert with_cache - without == 2056 * 32 * 2 * 4096 * 2


def answers(first: float, count: int, *, turn: int = 0) -> list[Answered]:
    stages = {"prefill": first / 2, "input_tokens": 2100}
    return [
        Answered(
            asked_seconds=0,
            first_token_seconds=first,
            total_seconds=first + 0.3,
            num_tokens=4,
            turn=turn,
            stages=stages,
        )
    ] * count


def run_of(contestant: str, workload: str, concurrency: int, *, seconds: float, first: float = 1.0) -> Run:
    known = answers(first / 20, 7, turn=1) if workload == "eight" else []
    return Run(
        contestant=contestant,
        workload=workload,
        concurrency=concurrency,
        seconds=seconds,
        cpu_seconds=16.0,
        client_cpu_seconds=8.0,
        others_cpu_seconds=0.5,
        peak_bytes=10**9,
        answers=(*answers(first, 1), *known),
    )


def make_report(*, seconds: float = 1.0, first: float = 1.0) -> Report:
    """This server takes `seconds` for what takes the others 2 s, and `first` to the first token instead of 1 s."""
    others = {
        "hf_one_by_one": 1,
        "hf_batched": 4,
        "in_process": 16,
        "in_process_int8": 16,
        "triton_int8": 16,
        "vllm_serve": 16,
    }
    results = [
        Result(name, "", 1.0, tuple(run_of(name, kind, count, seconds=2.0) for kind in ("unique", "eight", "text")))
        for name, count in others.items()
    ]
    results.append(Result("in_process", "", 1.0, (run_of("in_process", "eight", 1, seconds=2.0),)))
    ours = [
        run_of("triton", kind, count, seconds=seconds, first=first)
        for kind in ("unique", "eight", "text")
        for count in (1, 16)
    ]
    return Report(SMALL, [*results, Result("triton", "", 1.0, tuple(ours))], machine=MACHINE, stages=STAGES)


def test_figures_of_a_run():
    row = next(row for row in make_report().figures if row.contestant == "vllm_serve" and row.workload == "eight")
    assert row.first_token_seconds == pytest.approx(0.05)
    assert row.inter_token_seconds == pytest.approx(0.1)
    assert row.requests_per_second == QUESTIONS_PER_VIDEO / 2
    assert row.tokens_per_second == 4 * QUESTIONS_PER_VIDEO / 2
    assert (row.cpu_seconds_per_request, row.client_cpu_seconds_per_request, row.others_share) == (2.0, 1.0, 0.25)


def test_rounds_count_as_one_long_run():
    rounds = [
        run_of("triton", "unique", 16, seconds=seconds, first=first) for seconds, first in ((1.0, 0.2), (3.0, 0.4))
    ]
    row = Figures.of(rounds)
    assert (row.requests_per_second, row.rounds_requests_per_second) == (0.5, (1.0, 1 / 3))
    assert row.first_token_seconds == pytest.approx(0.3)
    assert (row.cpu_seconds_per_request, row.others_share) == (16.0, 0.25)


@pytest.mark.parametrize(("seconds", "kept"), [(1.0, True), (2.1, True), (2.2, False)])
def test_throughput_may_lack_a_twentieth_of_that_of_the_engine_alone(seconds, kept):
    promises = [p for p in make_report(seconds=seconds).promises() if "throughput against the engine" in p.text]
    assert [promise.is_kept for promise in promises] == [kept, kept]


@pytest.mark.parametrize(("first", "kept"), [(1.0, True), (1.007, True), (1.5, False)])
def test_eight_milliseconds_may_pass_beside_the_engine(first, kept):
    promise = next(p for p in make_report(first=first).promises() if "new video, 1 at a time" in p.text)
    assert promise.is_kept is kept


def test_shares_are_of_the_ceiling_of_their_own_arithmetic():
    report = make_report()
    shares = report.shares()
    assert shares["encoder"] == encoder_flops(SMALL) / 1e11
    assert shares["prefill"] == pytest.approx(prefill_flops(SMALL, num_positions=2100) / 0.5 / 4e11)
    assert next(p for p in report.promises() if "int8 encoder" in p.text).measured == 2.0


def test_a_report_is_json():
    report = make_report()
    values = json.loads(json.dumps(report.to_json()))
    assert [Result.from_json(each) for each in values["results"]] == list(report.results)


def test_a_report_is_text():
    console = Console(record=True, width=200)
    print_report(make_report(), console)
    text = console.export_text()
    assert "this server" in text
    assert "not met" in text
    assert "Other processes used up to 50% of a processor" in text


def test_sessions_ask_eight_questions_about_a_clip_of_their_own():
    book = Workbook(4)
    first, second = book.make(Size("eight", 2, 3)), book.make(Size("unique", 1, 2))
    assert first.num_questions == 3 * QUESTIONS_PER_VIDEO
    assert [{question.clip for question in session} for session in first.sessions] == [{0}, {1}, {2}]
    assert [question.clip for session in second.sessions for question in session] == [3, 4]


LOG = """I1124 23:59:50.847185 18427 cache_manager.cc:174] "Creating TritonCache"
(EngineCore pid=1) INFO 11-24 23:59:59 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='m'
(Worker pid=2) INFO 11-25 00:00:07 [cpu_model_runner.py:68] Starting to load model m...
(Worker pid=2) INFO 11-25 00:00:08 [default_loader.py:501] Loading weights took 0.19 seconds
(EngineCore pid=1) INFO 11-25 00:00:28 [core.py:402] init engine (profile, create kv cache, warmup model) took 22.38 s
"""


def test_the_start_is_told_step_by_step():
    assert list(startup_seconds(LOG).values()) == [9, 8, 1, 20]
    assert startup_seconds("nothing of the kind") == {}


def test_an_answer_of_another_length_is_no_measurement():
    watch = Stopwatch(0.0, 0)
    watch.mark(3)
    with pytest.raises(RuntimeError, match="3 tokens, expected 4"):
        watch.answered({}, expected_tokens=4)
