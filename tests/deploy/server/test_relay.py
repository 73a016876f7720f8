"""Responses pass in order with one final flag each, pulses end here, and a caller who has gone stops the generation."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

FINAL = 1


class Request:
    """One request of Triton's to the relay, and what it was answered."""

    def __init__(self, *, cancelled=False, **texts):
        tensors = {"generation_id": "a-1"} | texts
        self._tensors = [Tensor(name, text) for name, text in tensors.items()]
        self._cancelled = cancelled
        self.sent = []

    def inputs(self):
        return self._tensors

    def is_cancelled(self):
        return self._cancelled

    def get_response_sender(self):
        return self

    def send(self, response=None, *, flags):
        assert flags == FINAL
        self.sent.append(response)


class Tensor:
    def __init__(self, name, text):
        self._name, self._array = name, np.array([text.encode()], np.object_)

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


@pytest.fixture
def stopped():
    """The generations that the language model was asked to stop."""
    return []


@pytest.fixture
def relay(load, monkeypatch, stopped):
    def ask(*, model_name, inputs, **_):
        assert model_name == "vicuna"
        return SimpleNamespace(exec=lambda **_: stopped.append(inputs[0].as_numpy()[0]) or [])

    module = load("relay.model")
    monkeypatch.setattr(sys.modules["triton_python_backend_utils"], "InferenceRequest", ask, raising=False)
    model = module.TritonPythonModel()
    model.initialize({})
    return model


def test_tensors_pass_under_their_own_names(relay, stopped):
    requests = [Request(text_output="a", finish_reason="None"), Request(text_output="b")]
    relay.execute(requests)
    ((first,), (second,)) = (request.sent for request in requests)
    assert {name: array.tolist() for name, array in first.tensors.items()} == {
        "text_output": [b"a"],
        "finish_reason": [b"None"],
    }
    assert set(second.tensors) == {"text_output"}
    assert stopped == []


def test_a_pulse_ends_without_a_response(relay, stopped):
    pulse = Request()
    relay.execute([pulse])
    assert pulse.sent == [None]
    assert stopped == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("INVALID_ARGUMENT: x", "INVALID_ARG"),
        ("UNAVAILABLE: x", "UNAVAILABLE"),
        ("CANCELLED: x", "CANCELLED"),
        ("DEADLINE_EXCEEDED: x", "INTERNAL"),
    ],
)
def test_an_error_becomes_the_requests_error(relay, text, code):
    request = Request(error=text)
    relay.execute([request])
    (response,) = request.sent
    assert (str(response.error), response.error.code, response.tensors) == (text, code, {})


def test_whoever_has_gone_stops_its_generation_once(relay, stopped):
    relay.execute([Request(cancelled=True), Request(cancelled=True, text_output="a")])
    assert stopped == [b"a-1"]
    relay.execute([Request(cancelled=True, generation_id="b-2", text_output="a")])
    assert stopped == [b"a-1", b"b-2"]
