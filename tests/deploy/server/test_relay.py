"""Responses pass with one final flag each, heartbeats end here, a caller who has gone stops the generation."""

from types import SimpleNamespace

import pytest
from support.fake_triton import FINAL, FakeRequest
from video_llava_server.relay import TritonPythonModel
from video_llava_server.tensors import strings


def request(*, cancelled=False, generation_id="a-1", **texts):
    tensors = {name: strings([text]) for name, text in {"generation_id": generation_id, **texts}.items()}
    return FakeRequest(tensors, cancelled=cancelled)


@pytest.fixture
def stopped():
    """The generations that the language model was asked to stop."""
    return []


@pytest.fixture
def relay(monkeypatch, triton, stopped):
    def ask(*, model_name, inputs, **_):
        assert model_name == "vicuna"
        return SimpleNamespace(exec=lambda **_: stopped.append(inputs[0].as_numpy()[0]) or [])

    monkeypatch.setattr(triton, "InferenceRequest", ask, raising=False)
    model = TritonPythonModel()
    model.initialize({"model_name": "relay"})
    return model


def test_tensors_pass_under_their_own_names(relay, stopped):
    requests = [request(text_output="a", finish_reason="None"), request(text_output="b")]
    relay.execute(requests)
    sent = [response for each in requests for response in each.sender.sent]
    assert sent == [({"text_output": b"a", "finish_reason": b"None"}, "", FINAL), ({"text_output": b"b"}, "", FINAL)]
    assert stopped == []


def test_a_heartbeat_ends_without_a_response(relay, stopped):
    heartbeat = request()
    relay.execute([heartbeat])
    assert heartbeat.sender.sent == [({}, "", FINAL)]
    assert stopped == []


@pytest.mark.parametrize(
    "text", ["INVALID_ARGUMENT: x", "UNAVAILABLE: x", "CANCELLED: x", "DEADLINE_EXCEEDED: x", "INTERNAL: x: y"]
)
def test_an_error_becomes_the_requests_error(relay, text):
    failed = request(error=text)
    relay.execute([failed])
    assert failed.sender.sent == [({}, text, FINAL)]


def test_a_caller_who_has_gone_stops_its_generation_once(relay, stopped):
    relay.execute([request(cancelled=True), request(cancelled=True, text_output="a")])
    assert stopped == [b"a-1"]
    relay.execute([request(cancelled=True, generation_id="b-2", text_output="a")])
    assert stopped == [b"a-1", b"b-2"]
