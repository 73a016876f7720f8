"""What only a real engine shows: constraints that it keeps or fails at, what a request leaves out or misspells."""

import json
import re
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.triton import flag, metrics, stream, strings

TEXT = "USER: What is a bicycle? ASSISTANT:"
CLOSED = {
    "type": "object",
    "properties": {"wheels": {"type": "integer", "minimum": 0, "maximum": 9}, "color": {"enum": ["red", "blue"]}},
    "required": ["wheels", "color"],
    "additionalProperties": False,
}


def ask(server, sampling, *, streamed=False):
    tensors = {
        "text_input": strings(TEXT),
        "stream": flag(streamed),
        "exclude_input_in_output": flag(True),
        "return_finish_reason": flag(True),
        "return_token_ids": flag(True),
    }
    if sampling is not None:
        tensors["sampling_parameters"] = strings(json.dumps(sampling))
    return stream(server.grpc_url, "video_llava", tensors)


def histograms(url):
    return {name: value for name, value in metrics(url).items() if "_seconds_sum" in name or "_seconds_count" in name}


def settled(url, wait_for):
    """Return the metrics once those of earlier tests' requests have all come."""
    seen = [own_metrics(url)]

    def stands_still():
        time.sleep(0.5)
        seen.append(own_metrics(url))
        return seen[-1] == seen[-2]

    wait_for(stands_still)
    return seen[-1]


def own_metrics(url):
    return {name: value for name, value in metrics(url).items() if name.startswith(("vllm:", "video_llava:"))}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_constraint_that_leaves_no_token_is_a_failure_and_no_answer(server, wait_for, streamed):
    before = settled(server.metrics_url, wait_for)
    times = histograms(server.metrics_url)
    ended = ask(server, {"structured_outputs": {"choice": ["a"]}, "allowed_token_ids": [5]}, streamed=streamed)
    assert not any(output["finish_reason"].tolist() != [b"None"] for output in ended.outputs)
    assert "INVALID_ARGUMENT: sampling_parameters: structured_outputs and allowed_token_ids together" in ended.error

    failed = "video_llava:requests_failed_total{vicuna}"
    wait_for(lambda: metrics(server.metrics_url)[failed] == before[failed] + 1)
    success = "vllm:request_success_total{vicuna}"
    assert metrics(server.metrics_url)[success] == before[success]
    # It had a first token, refused as it was.
    taken = {"vllm:time_to_first_token_seconds", "video_llava:encode_seconds"}
    after = histograms(server.metrics_url)
    assert {name for name in after if after[name] != times[name]} <= {
        f"{name}_{end}{{vicuna}}" for name in taken for end in ("sum", "count")
    }
    assert min(after.values()) >= 0


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_closed_schema_comes_whole_and_without_blanks(server, temperature):
    sampling = {"temperature": temperature, "seed": 7, "max_tokens": 200, "structured_outputs": {"json": CLOSED}}
    answer = ask(server, sampling)
    assert answer.outputs[-1]["finish_reason"].tolist() == [b"stop"]
    assert answer.text == json.dumps(json.loads(answer.text), separators=(",", ":"))
    assert json.loads(answer.text).keys() == CLOSED["properties"].keys()


def test_several_sequences_keep_one_constraint(server):
    sampling = {"n": 3, "temperature": 1, "seed": 7, "structured_outputs": {"regex": "[0-9]{4}-[a-z]{2}"}}
    tensors = {"text_input": strings(TEXT), "sampling_parameters": strings(json.dumps(sampling))}
    answer = stream(server.grpc_url, "video_llava", tensors | {"exclude_input_in_output": flag(True)})
    texts = [text.decode() for text in answer.outputs[-1]["text_output"]]
    assert len(set(texts)) > 1
    assert all(re.fullmatch("[0-9]{4}-[a-z]{2}", text) for text in texts)


def test_slow_compiles_have_a_limit_and_hold_up_nobody(server):
    """`sleep` is the tests' own (overlay/vicuna/1/slow_compiles.py)."""
    grammars = [f'root ::= "sleep 60 {number}"' for number in range(5)]
    with ThreadPoolExecutor(len(grammars)) as pool:
        slow = [pool.submit(ask, server, {"structured_outputs": {"grammar": grammar}}) for grammar in grammars]
        answers = [ask(server, {"structured_outputs": {"choice": [f"new {number}"]}}).text for number in range(8)]
        assert sum(not each.done() for each in slow) >= 3
        assert answers == [f"new {number}" for number in range(8)]
        errors = [each.result(timeout=60).error for each in slow]
    told = ("too many constraints are compiled at once", "max_compile_seconds is 10")
    assert all(any(what in error for what in told) for error in errors), errors
    assert sum(told[1] in error for error in errors) >= 3


def test_a_request_without_sampling_parameters_is_greedy_with_256_tokens(server):
    answers = [ask(server, sampling) for sampling in (None, {}, {"temperature": 0, "max_tokens": 256})]
    ids = [json.loads(answer.outputs[-1]["token_ids"][0]) for answer in answers]
    assert ids[0] == ids[1] == ids[2]
    assert len(ids[0]) == 256


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ({"temprature": 1.0}, "temprature"),
        ({"max_new_tokens": 5}, "max_new_tokens"),
        ({"max_tokens": 2, "priority": 1, "timeout": 50_000_000, "sequence_id": 7}, None),
        ({"max_tokens": 2, "binary_data_output": False}, None),
    ],
)
def test_http_refuses_unknown_parameters_by_name_and_passes_tritons_own(server, parameters, refused, nested):
    body = {"text_input": TEXT, "id": "a", **({"parameters": parameters} if nested else parameters)}
    request = urllib.request.Request(
        f"http://{server.http_url}/v2/models/video_llava/generate", data=json.dumps(body).encode()
    )
    if refused is None:
        with urllib.request.urlopen(request, timeout=60) as response:
            assert json.load(response)["text_output"].startswith(TEXT)
        return
    with pytest.raises(urllib.error.HTTPError) as raised:
        urllib.request.urlopen(request, timeout=60)
    assert raised.value.code == 400
    assert f"INVALID_ARGUMENT: the request has an unknown parameter '{refused}'" in raised.value.read().decode()
