"""What becomes of a request is counted once, in the words of its error, and belongs to its caller's trace."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest


class FakeMetric:
    def __init__(self, labels, buckets):
        self.labels, self.buckets, self.observed, self.total = labels, buckets, [], 0

    def increment(self, value):
        self.total += value

    def observe(self, value):
        self.observed.append(value)


class FakeFamily:
    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
    metrics: list = []  # noqa: RUF012 (the test empties it)

    def __init__(self, name, description, kind):
        self.name, self.kind = name, kind
        assert description

    def Metric(self, labels, buckets=None):  # noqa: N802
        assert (buckets is not None) == (self.kind == self.HISTOGRAM)
        metric = FakeMetric(labels, buckets)
        FakeFamily.metrics.append((self.name, metric))
        return metric


@pytest.fixture
def made(load, monkeypatch):
    """Every metric that is made, as (name, metric)."""
    load("vicuna.errors")
    monkeypatch.setattr(sys.modules["triton_python_backend_utils"], "MetricFamily", FakeFamily, raising=False)
    FakeFamily.metrics.clear()
    return FakeFamily.metrics


def totals(made, label):
    return {metric.labels[label]: metric.total for _, metric in made if label in metric.labels and metric.total}


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


def test_a_finished_request_is_in_each_of_its_histograms_once(load, made):
    module = load("vicuna.request_metrics")
    metrics = module.RequestMetrics({"model": "vicuna"})
    step = SimpleNamespace(time_to_first_tokens_iter=[0.5], finished_requests=[finished("stop"), finished("length", 1)])
    metrics.record(step)
    metrics.encoded(0.25)
    assert all(not metric.observed for _, metric in made)

    metrics.publish()
    metrics.publish()
    observed = {name: metric.observed for name, metric in made if metric.buckets}
    assert observed.keys() == module.HISTOGRAMS.keys()
    assert observed["vllm:time_to_first_token_seconds"] == [0.5]
    assert observed["video_llava:encode_seconds"] == [0.25]
    assert observed["vllm:e2e_request_latency_seconds"] == [8.0, 8.0]
    # One token has no time between tokens.
    assert observed["vllm:request_time_per_output_token_seconds"] == [1.0]
    assert totals(made, "finished_reason") == {"stop": 1, "length": 1}


def test_every_kind_of_failure_has_its_counter(load, made):
    errors = load("vicuna.errors")
    metrics = load("vicuna.request_metrics").RequestMetrics({"model": "vicuna"})
    for kind in errors.RequestError.__subclasses__():
        metrics.failed(kind("it went wrong"))
    metrics.publish()
    assert totals(made, "code") == {kind.code: 1 for kind in errors.RequestError.__subclasses__()}


def test_a_crowd_that_ends_at_once_is_published_in_bites(load, made):
    metrics = load("vicuna.request_metrics").RequestMetrics({"model": "vicuna"})
    for _ in range(500):
        metrics.encoded(1.0)
    (encode,) = (metric for name, metric in made if name == "video_llava:encode_seconds")
    published = []
    for _ in range(4):
        metrics.publish()
        published.append(len(encode.observed))
    assert published == [200, 400, 500, 500]


class Response:
    """Triton's response of the step `intake`."""

    def __init__(self, error="", **frames):
        self._error, self._frames = error, frames

    def has_error(self):
        return bool(self._error)

    def error(self):
        return SimpleNamespace(message=lambda: self._error)

    def output_tensors(self):
        return [SimpleNamespace(name=lambda n=n: n, as_numpy=lambda a=a: a) for n, a in self._frames.items()]


def test_intake_counts_requests_frames_and_refusals(load, made):
    metrics = load("intake.metrics").IntakeMetrics({"model": "intake"})
    metrics.count(Response(video_frames=np.zeros((8, 2, 2, 3)), image_frames=np.zeros((0, 2, 2, 3))))
    metrics.count(Response(video_frames=np.zeros((16, 2, 2, 3)), image_frames=np.zeros((1, 2, 2, 3))))
    metrics.count(Response(error="INVALID_ARGUMENT: text_input is empty"))
    metrics.count(Response(limits=np.zeros(1)))
    counted = {name: metric.total for name, metric in made if metric.total and "code" not in metric.labels}
    assert counted == {
        "video_llava:requests_total": 3,
        "video_llava:video_frames_total": 24,
        "video_llava:image_frames_total": 1,
        "video_llava:video_requests_total": 2,
        "video_llava:image_requests_total": 1,
    }
    assert totals(made, "code") == {"INVALID_ARGUMENT": 1}
    metrics.close()


@pytest.mark.parametrize(
    ("context", "parameters", "headers"),
    [
        ('{"traceparent": "00-ab-cd-01"}', '{"traceparent": "of the caller"}', {"traceparent": "00-ab-cd-01"}),
        ("", '{"traceparent": "of the caller", "x": 1}', {"traceparent": "of the caller"}),
        (None, "", {}),
        # What would end the engine.
        ("", '{"traceparent": 7, "tracestate": "\\ud800"}', {}),
        ("", f'{{"traceparent": "{"a" * 513}"}}', {}),
    ],
)
def test_the_trace_is_tritons_or_the_callers(load, context, parameters, headers):
    trace = SimpleNamespace(get_context=lambda: context)
    request = SimpleNamespace(trace=lambda: trace, parameters=lambda: parameters)
    assert load("vicuna.tracing").trace_headers(request) == headers


def test_the_engine_exports_traces_where_opentelemetrys_variable_says(load, monkeypatch, tmp_path):
    (tmp_path / "model.json").write_text('{"model": "weights"}')
    read = load("vicuna.engine").read_engine_arguments
    assert read(tmp_path).otlp_traces_endpoint is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector:4318/v1/traces")
    assert read(tmp_path).otlp_traces_endpoint == "http://collector:4318/v1/traces"
    (tmp_path / "model.json").write_text('{"model": "weights", "otlp_traces_endpoint": "http://mine:1"}')
    assert read(tmp_path).otlp_traces_endpoint == "http://mine:1"
