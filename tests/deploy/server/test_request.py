import json

import numpy as np
import pytest
from video_llava_server.request import parse_request
from video_llava_server.sampling import parse_sampling
from video_llava_server.tensors import strings


def test_defaults_follow_tritons_vllm_backend():
    request = parse_request({"text_input": strings(["hi"])}, "{}")
    assert (request.stream, request.echo, request.optional_outputs) == (False, True, frozenset())
    streamed = parse_request({"text_input": strings(["hi"]), "stream": np.array([True])}, "{}")
    assert (streamed.stream, streamed.echo) == (True, False)


def test_optional_outputs_are_those_asked_for():
    tensors = {
        "text_input": strings(["hi"]),
        "return_token_ids": np.array([True]),
        "return_logprobs": np.array([False]),
    }
    assert parse_request(tensors, "{}").optional_outputs == {"token_ids"}


def test_request_parameters_stand_in_for_sampling_parameters():
    parameters = json.dumps({"max_tokens": "7", "traceparent": "00-1-2-3"})
    assert parse_request({"text_input": strings(["hi"])}, parameters).sampling == {"max_tokens": "7"}
    tensors = {"text_input": strings(["hi"]), "sampling_parameters": strings(['{"n": 2}'])}
    assert parse_request(tensors, '{"traceparent": "00-1-2-3"}').sampling == {"n": 2}
    with pytest.raises(match="has the parameter 'max_tokens' beside the input sampling_parameters, which alone is"):
        parse_request(tensors, parameters)


@pytest.mark.parametrize("name", [None, "red"])
def test_an_adapter_is_named_beside_the_sampling_parameters(name):
    written = json.dumps({"n": 2, "lora_name": name})
    for tensors, parameters in (({}, written), ({"sampling_parameters": strings([written])}, "{}")):
        request = parse_request({"text_input": strings(["hi"]), **tensors}, parameters)
        assert (request.lora_name, request.sampling) == (name, {"n": 2})


@pytest.mark.parametrize(("priority", "number"), [(None, 0), (3, 3)])
def test_a_priority_stands_among_the_sampling_parameters(priority, number):
    tensors = {"text_input": strings(["hi"]), "sampling_parameters": strings([json.dumps({"priority": priority})])}
    request = parse_request(tensors, '{"priority": 1}')  # that one is Triton's own
    assert (request.priority, request.sampling) == (number, {})


@pytest.mark.parametrize("name", ["temprature", "max_new_tokens", "stream", "max-tokens", "host", ""])
@pytest.mark.parametrize("tensors", [{}, {"sampling_parameters": strings(["{}"])}])
def test_unknown_parameters_of_the_request_are_refused_by_name(name, tensors):
    with pytest.raises(match=f"the request has an unknown parameter '{name}'; supported are allowed_token_ids, bad"):
        parse_request({"text_input": strings(["hi"]), **tensors}, json.dumps({"max_tokens": 3, name: 0.5}))


@pytest.mark.parametrize(
    "parameters",
    [
        {"priority": 1, "timeout": 10, "sequence_id": 5, "sequence_start": True, "sequence_end": False},
        {"id": "a", "binary_data_output": True, "triton_enable_empty_final_response": True},
        {"traceparent": "00-1", "User-Agent": "curl/8", "Host": "here", "x-request-id": "7"},
    ],
)
def test_tritons_own_parameters_and_forwarded_headers_pass(parameters):
    assert parse_request({"text_input": strings(["hi"])}, json.dumps(parameters)).sampling == {}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"sampling_parameters": strings(["{"])}, r"sampling_parameters is not JSON .*: '\{'"),
        ({"sampling_parameters": strings(["[1]"])}, "sampling_parameters is a JSON list, expected an object"),
        ({"sampling_parameters": strings(["[" * 100_000])}, "sampling_parameters is nested too deeply"),
        ({"sampling_parameters": strings([" " * (2**20 + 1)])}, "has 1048577 characters, at most 1048576 are read"),
        ({"sampling_parameters": strings([r'{"stop": ["\ud800"]}'])}, "holds half a surrogate pair, which is no text"),
        ({"sampling_parameters": strings(['{"lora_name": 7}'])}, "lora_name is 7, expected the name of an adapter"),
        ({"text_input": np.array([b"\xff"], np.object_)}, "text_input is not UTF-8"),
        (
            {"stream": np.array([True]), "exclude_input_in_output": np.array([False])},
            "exclude_input_in_output is false, which streaming cannot do",
        ),
    ],
)
def test_unreadable_requests_are_refused(tensors, message):
    with pytest.raises(match=message):
        parse_request({"text_input": strings(["hi"]), **tensors}, "{}")


def test_strings_are_coerced():
    sampling = parse_sampling({"max_tokens": "256", "temperature": "0", "stop": "x"}, stream=True)
    assert (sampling.max_tokens, sampling.temperature, sampling.stop) == (256, 0.0, ["x"])
    assert sampling.output_kind.name == "DELTA"


@pytest.mark.parametrize(
    ("sampling", "temperature", "max_tokens"),
    [
        ({}, 0, 256),
        ({"max_tokens": 5}, 0, 5),
        ({"temperature": 0.5}, 0.5, 256),
        ({"max_tokens": None, "temperature": 1}, 1, None),
    ],
)
def test_what_is_left_out_is_greedy_with_256_tokens(sampling, temperature, max_tokens):
    made = parse_sampling(sampling, stream=False)
    assert (made.temperature, made.max_tokens) == (temperature, max_tokens)


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"temperatur": 1}, "unknown parameter 'temperatur'; supported are allowed_token_ids, bad_words"),
        ({"temperature": -1}, "temperature must be non-negative, got -1"),
        ({"temperature": "hot"}, "temperature is 'hot': Expected `float`"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"max_tokens": 1.5}, "max_tokens is 1.5: Expected `int | null`"),
        ({"top_p": 2}, r"top_p must be in \(0, 1\], got 2"),
        ({"seed": 2**64}, "seed is 18446744073709551616, it must fit in 64 bits"),
        ({"top_k": "9" * 20}, "top_k is 99999999999999999999, it must fit in 64 bits"),
        ({"logit_bias": {"5": "nan"}}, "logit_bias is {5: nan}, it must be finite in 32 bits"),
        ({"logit_bias": {"5": 1e300}}, r"logit_bias is {5: 1e\+300}, it must be finite in 32 bits"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty is 1e-300, which is 0 in 32 bits"),
        ({"n": 129}, "n has or is 129, at most 128 can be"),
        ({"stop_token_ids": [1] * 129}, "stop_token_ids has or is 129, at most 128 can be"),
        (
            {"structured_outputs": {"choice": ["a"], "_backend": "outlines"}},
            "structured_outputs has no '_backend'; it has json, regex",
        ),
        ({"structured_outputs": {"json": {"maximum": 2**64}}}, "structured_outputs has a number of more than 64 bits"),
        ({"structured_outputs": {"shape": 1}}, "structured_outputs is {'shape': 1}"),
        ({"output_kind": 1}, "unknown parameter 'output_kind'"),
    ],
)
def test_bad_sampling_parameters_are_refused_by_name(sampling, message):
    with pytest.raises(match=message):
        parse_sampling(sampling, stream=False)
