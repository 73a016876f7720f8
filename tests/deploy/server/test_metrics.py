"""What becomes of a request is counted once, in the words of its error, and belongs to its caller's trace."""

from types import SimpleNamespace

import pytest
from video_llava_server import engine
from video_llava_server.engine_metrics import HISTOGRAMS, EngineMetrics
from video_llava_server.errors import RequestError
from video_llava_server.tracing import trace_headers


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
            finished_requests=[finished("stop"), finished("length", 1)],
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


def test_every_kind_of_failure_has_its_counter(metrics, engine_metrics):
    for kind in RequestError.__subclasses__():
        engine_metrics.failed(kind("it went wrong"))
    engine_metrics.publish()
    assert totals(metrics, "code") == {kind.code: 1 for kind in RequestError.__subclasses__()}


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
    error = RequestError.parse(str(kind("what: why")))
    assert (type(error), str(error)) == (kind, f"{kind.code}: what: why")
    assert len(str(kind("x" * 10_000))) == 500


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


def test_the_engine_exports_traces_where_opentelemetrys_variable_says(monkeypatch, tmp_path):
    path = tmp_path / "model.json"
    path.write_text('{"model": "weights"}')
    assert engine.read_engine_arguments(path).otlp_traces_endpoint is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")
    assert engine.read_engine_arguments(path).otlp_traces_endpoint == "http://collector:4318/v1/traces"
    path.write_text('{"model": "weights", "otlp_traces_endpoint": "http://mine:1"}')
    assert engine.read_engine_arguments(path).otlp_traces_endpoint == "http://mine:1"
