"""What becomes of a request is counted once, in the words of its error, and belongs to its caller's trace."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from video_llava_server import engine
from video_llava_server.engine_metrics import HISTOGRAMS, EngineMetrics
from video_llava_server.errors import KINDS, RequestError, Unavailable
from video_llava_server.tracing import trace_headers
from vllm.v1.engine import FinishReason


@pytest.fixture
def engine_metrics():
    made = EngineMetrics({"model_name": "vicuna", "model_version": "1"})
    yield made
    made.close()


def totals(metrics, label):
    return {metric.labels[label]: metric.total for metric in metrics if label in metric.labels and metric.total}


def finished(reason, num_generation_tokens=5):
    return SimpleNamespace(
        finish_reason=reason,
        queued_time=1.0,
        prefill_time=2.0,
        decode_time=4.0,
        e2e_latency=8.0,
        num_generation_tokens=num_generation_tokens,
        mean_time_per_output_token=1.0,
    )


def test_a_finished_request_is_in_each_of_its_histograms_once(metrics, engine_metrics):
    engine_metrics.record(
        None,
        SimpleNamespace(
            num_prompt_tokens=7,
            num_generation_tokens=6,
            num_preempted_reqs=0,
            time_to_first_tokens_iter=[0.5],
            finished_requests=[finished(FinishReason.STOP), finished(FinishReason.LENGTH, 1)],
        ),
    )
    engine_metrics.encoded(0.25)
    assert all(not metric.observed for metric in metrics)

    engine_metrics.publish()
    engine_metrics.publish()
    observed = {metric.name: metric.observed for metric in metrics if metric.buckets}
    assert observed.keys() == HISTOGRAMS.keys()
    assert observed["vllm:time_to_first_token_seconds"] == [0.5]
    assert observed["video_llava:encode_seconds"] == [0.25]
    assert observed["vllm:e2e_request_latency_seconds"] == [8.0, 8.0]
    # One token has no time between tokens.
    assert observed["vllm:request_time_per_output_token_seconds"] == [1.0]
    assert totals(metrics, "finished_reason") == {"stop": 1, "length": 1}
    counted = {metric.name: metric.total for metric in metrics}
    assert (counted["vllm:prompt_tokens_total"], counted["vllm:generation_tokens_total"]) == (7, 6)


@pytest.mark.parametrize("reason", [FinishReason.ERROR, FinishReason.ABORT])
@pytest.mark.parametrize(("num_tokens", "first_token"), [(0, [0.5]), (1, [0.5, 8.0])])
def test_what_the_engine_gave_up_is_no_success_and_has_no_times(
    metrics, engine_metrics, reason, num_tokens, first_token
):
    given_up = finished(reason, num_tokens)
    given_up.queued_time = -2112.0
    engine_metrics.record(
        None,
        SimpleNamespace(
            num_prompt_tokens=0,
            num_generation_tokens=num_tokens,
            num_preempted_reqs=0,
            time_to_first_tokens_iter=[0.5, given_up.e2e_latency],
            finished_requests=[given_up],
        ),
    )
    engine_metrics.publish()
    assert {metric.name: metric.observed for metric in metrics if metric.observed} == {
        "vllm:time_to_first_token_seconds": first_token
    }
    assert totals(metrics, "finished_reason") == {}


def test_every_kind_of_failure_has_its_counter(metrics, engine_metrics):
    kinds = [kind for kind in RequestError.__subclasses__() if kind is not Unavailable]
    errors = [kind("it went wrong") for kind in kinds]
    errors += [Unavailable("not now", reason=reason) for reason in Unavailable.REASONS]
    for error in errors:
        engine_metrics.failed(error)
    engine_metrics.publish()
    counted = [(metric.labels["code"], metric.labels["reason"]) for metric in metrics if "code" in metric.labels]
    assert counted == KINDS
    assert all(metric.total == 1 for metric in metrics if "code" in metric.labels)


def test_the_engines_life_is_a_gauge(metrics, engine_metrics):
    (gauge,) = (metric for metric in metrics if metric.name == "video_llava:engine_up")
    for is_up in (True, False):
        engine_metrics.publish(is_engine_up=is_up)
        assert gauge.total == is_up


def test_each_adapter_has_its_counters_and_gauges(metrics):
    made = EngineMetrics({"model_name": "vicuna", "model_version": "1"}, ["red", "blue"])
    made.generated("blue", 7)
    made.forget()
    made.began("red")
    made.generated("red", 3)
    scheduler: Any = SimpleNamespace(
        num_running_reqs=1,
        num_waiting_reqs=2,
        num_skipped_waiting_reqs=0,
        kv_cache_usage=0.0,
        prefix_cache_stats=SimpleNamespace(queries=0, hits=0),
        running_lora_adapters={"red": 1},
        waiting_lora_adapters={"blue": 2},
    )
    made.record(scheduler, None)
    made.publish()
    counted = {
        (metric.name.removeprefix("video_llava:lora_"), metric.labels["lora_name"]): metric.total
        for metric in metrics
        if "lora_name" in metric.labels
    }
    assert {key: total for key, total in counted.items() if total} == {
        ("requests_total", "red"): 1,
        ("generation_tokens_total", "red"): 3,
        ("requests_running", "red"): 1,
        ("requests_waiting", "blue"): 2,
    }
    assert len(counted) == 8
    made.close()


def test_many_requests_that_end_at_once_are_published_in_steps(metrics, engine_metrics):
    for _ in range(500):
        engine_metrics.encoded(1.0)
    (encode,) = (metric for metric in metrics if metric.name == "video_llava:encode_seconds")
    published = []
    for _ in range(4):
        engine_metrics.publish()
        published.append(len(encode.observed))
    assert published == [200, 400, 500, 500]


@pytest.mark.parametrize("kind", RequestError.__subclasses__())
def test_an_error_survives_its_text_and_a_long_value_is_cut(kind):
    reason: dict[str, Any] = {"reason": "full"} if kind is Unavailable else {}
    text = str(kind("what: why", **reason))
    assert text.startswith(f"{kind.code}: what: why")
    error = RequestError.parse(text)
    assert (type(error), str(error)) == (kind, text)
    assert len(str(kind("x" * 10_000, **reason))) == 500


@pytest.mark.parametrize(
    ("context", "parameters", "headers"),
    [
        ('{"traceparent": "00-ab-cd-01"}', '{"traceparent": "of the caller"}', {"traceparent": "00-ab-cd-01"}),
        ("", '{"traceparent": "of the caller", "x": 1}', {"traceparent": "of the caller"}),
        (None, "", {}),
        # These would end the engine.
        ("", '{"traceparent": 7, "tracestate": "\\ud800"}', {}),
        ("", f'{{"traceparent": "{"a" * 513}"}}', {}),
    ],
)
def test_the_trace_is_tritons_or_the_callers(context, parameters, headers):
    trace = SimpleNamespace(get_context=lambda: context)
    assert trace_headers(SimpleNamespace(trace=lambda: trace, parameters=lambda: parameters)) == headers


@pytest.mark.parametrize(
    ("given", "compact"), [({}, True), ({"structured_outputs_config": {"disable_any_whitespace": False}}, False)]
)
def test_json_is_compact_unless_the_operator_says_otherwise(tmp_path, given, compact):
    path = tmp_path / "model.json"
    path.write_text(json.dumps({"model": "weights", **given}))
    config = engine.read_engine_arguments(path).structured_outputs_config
    assert config == {"backend": "xgrammar", "disable_any_whitespace": compact}


def test_the_engine_exports_traces_where_opentelemetrys_variable_says(monkeypatch, tmp_path):
    path = tmp_path / "model.json"
    path.write_text('{"model": "weights"}')
    assert engine.read_engine_arguments(path).otlp_traces_endpoint is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")
    assert engine.read_engine_arguments(path).otlp_traces_endpoint == "http://collector:4318/v1/traces"
    path.write_text('{"model": "weights", "otlp_traces_endpoint": "http://mine:1"}')
    assert engine.read_engine_arguments(path).otlp_traces_endpoint == "http://mine:1"
