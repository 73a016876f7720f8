"""One request is one trace: the caller's span, Triton's of the ensemble and of each step, the engine's."""

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

GREEDY = {"max_tokens": 6, "temperature": 0}
# The image encoder has not run: its answer to no image comes from the response cache.
FEATURE_STEPS = {"video_features", "video_encoder", "feature_store", "image_features"}
STEPS = {"video_llava", "intake", *FEATURE_STEPS, "vicuna", "relay"}


@pytest.fixture(scope="module")
def tracer(collector):
    """The caller's own OpenTelemetry, which sends its spans to the same collector."""
    provider = TracerProvider(resource=Resource({"service.name": "caller"}))
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(f"{collector.url}/v1/traces")))
    yield provider.get_tracer("test")
    provider.shutdown()


@pytest.fixture(scope="module")
def trace(collector, client, tracer, wait_for):
    """The spans of one question about a video."""
    video = np.random.default_rng(31).integers(0, 256, (8, 56, 56, 3), np.uint8)
    with tracer.start_as_current_span("caller's question") as span:
        client.ask("What happens?", video=video, **GREEDY)
    trace_id = format(span.get_span_context().trace_id, "032x")
    wanted = {"caller's question", "llm_request", *STEPS}
    wait_for(lambda: wanted <= {span.name for span in collector.trace(trace_id)})
    return collector.trace(trace_id)


def named(trace, name):
    (span,) = (span for span in trace if span.name == name)
    return span


def test_the_ensemble_is_the_callers_child_and_the_steps_are_the_ensembles(trace):
    def ancestors(span):
        by_id = {other.id: other for other in trace}
        while span.parent_id in by_id:
            span = by_id[span.parent_id]
            yield span.name

    for step in STEPS - {"video_llava", "relay"}:
        assert list(ancestors(named(trace, step)))[-1] == "caller's question"
        assert "video_llava" in ancestors(named(trace, step))
    assert "vicuna" in ancestors(named(trace, "llm_request"))


def test_the_engines_span_says_what_it_did(trace):
    engine = named(trace, "llm_request")
    assert engine.service == "vllm"
    assert engine.attributes["gen_ai.usage.completion_tokens"] == 6
    assert engine.attributes["gen_ai.usage.prompt_tokens"] > 8 * 17
    assert named(trace, "video_llava").service == "triton"
    # Both clocks are this machine's.
    assert named(trace, "caller's question").started <= engine.started <= engine.ended
    assert named(trace, "video_encoder").started <= engine.started


def test_requests_without_a_trace_of_the_callers_leave_no_spans(collector, client, tracer, wait_for):
    before = {span.trace_id for span in collector.all()}
    client.ask("What is a bicycle?", **GREEDY)
    # Exporters send in order: once this one is here, whatever came of the other is here too.
    with tracer.start_as_current_span("a later question") as span:
        client.ask("What is a bicycle?", **GREEDY)
    trace_id = format(span.get_span_context().trace_id, "032x")
    wait_for(lambda: {"llm_request", "video_llava"} <= {span.name for span in collector.trace(trace_id)})
    assert {span.trace_id for span in collector.all()} - before == {trace_id}
