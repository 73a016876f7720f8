"""The fields of a request: what goes on to Triton, and what is refused by name."""

import httpx
import pytest
from deploy.gateway.helpers import ask, text_part
from video_llava_client.testing import Reply


def sampling_of(gateway, server, **fields):
    response = gateway.post(ask(text_part("What?"), **fields))
    assert response.status_code == 200, response.text
    return server.requests[-1].sampling


def error_of(gateway, body, status=400):
    response = gateway.post(body)
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_what_is_left_out_is_as_in_vllm_serve(gateway, server):
    assert sampling_of(gateway, server) == {"temperature": 1.0, "max_tokens": 4096}


def test_sampling_fields_go_on(gateway, server):
    fields = {
        "allowed_token_ids": [1, 2],
        "bad_words": ["a"],
        "frequency_penalty": 0.5,
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "logit_bias": {"5": 1.0},
        "max_tokens": 3,
        "min_p": 0.1,
        "min_tokens": 2,
        "presence_penalty": 0.25,
        "repetition_penalty": 1.5,
        "seed": 9,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "stop": ["x"],
        "stop_token_ids": [3],
        "temperature": 0.5,
        "top_k": 4,
        "top_p": 0.5,
    }
    assert sampling_of(gateway, server, **fields) == fields
    assert sampling_of(gateway, server, stop="x")["stop"] == ["x"]
    assert sampling_of(gateway, server, max_completion_tokens=5, max_tokens=3)["max_tokens"] == 5


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
            {"json": {"type": "object"}},
        ),
        (
            {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}}},
            {"structural_tag": '{"type": "structural_tag", "format": {"type": "any_text"}}'},
        ),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, {"choice": ["yes", "no"]}),
    ],
)
def test_the_form_of_the_answer(gateway, server, fields, expected):
    assert sampling_of(gateway, server, **fields).get("structured_outputs") == expected


def test_a_priority_goes_on_to_the_server(gateway, server):
    assert sampling_of(gateway, server, priority=3)["priority"] == 3


def test_fields_that_change_nothing(gateway, server):
    fields = {
        "best_of": 1,
        "functions": [],
        "metadata": {"a": "b"},
        "parallel_tool_calls": True,
        "priority": 0,
        "store": True,
        "tools": [{"type": "function", "function": {"name": "get_time"}}],
        "tool_choice": "auto",
        "use_beam_search": False,
        "user": "joe",
    }
    assert sampling_of(gateway, server, **fields) == {"temperature": 1.0, "max_tokens": 4096}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tool_choice", "is not supported here"),
        ({"best_of": 2}, "best_of", "is not supported here"),
        ({"audio": {"voice": "a"}}, "audio", "is not supported here"),
        ({"guided_json": {}}, None, None),
        ({"priority": -1}, "priority", "should be greater than or equal to 0"),
        ({"guided_regex": "a"}, "guided_regex", "use structured_outputs"),
        ({"temprature": 1}, "temprature", "is not supported here"),
        ({"n": 2, "temperature": 0}, "n", "all answers are the same"),
        ({"n": 17}, "n", "less than or equal to 16"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1, got '0'"),
        ({"temperature": "warm"}, "temperature", "valid number"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs true"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream true"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'json_schema'"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is needed"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "response_format",
            "leave out one of them",
        ),
        ({"mm_processor_kwargs": {"fps": 2}}, "mm_processor_kwargs.fps", "not permitted"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", "'assistant'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "messages[0].content[0].type",
            "'video_url'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content[0]",
            "or the uuid of one",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}]},
            "messages[0].tool_calls",
            "at most 0 items",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(gateway, server, fields, param, message):
    body = ask(text_part("What?")) | fields
    if message is None:
        assert gateway.post(body).status_code == 200
        return
    error = error_of(gateway, body)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert message in error["message"]
    assert server.requests == []


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        ([("user", "Hi?")], "USER: Hi? ASSISTANT:"),
        ([("system", "Be brief."), ("user", "Hi?")], "Be brief. USER: Hi? ASSISTANT:"),
        (
            [("developer", "Be brief."), ("system", "Be kind."), ("user", "Hi?")],
            "Be brief.\nBe kind. USER: Hi? ASSISTANT:",
        ),
        ([("user", "A?"), ("user", "B?")], "USER: A?\nB? ASSISTANT:"),
        (
            [("user", "A?"), ("assistant", "B."), ("user", "C?")],
            "USER: A? ASSISTANT: B.</s>USER: C? ASSISTANT:",
        ),
    ],
)
def test_messages_become_the_models_format(gateway, server, messages, prompt):
    body = {"messages": [{"role": role, "content": content} for role, content in messages]}
    assert gateway.post(body).status_code == 200
    assert server.requests[0].prompt == prompt


@pytest.mark.parametrize(
    ("messages", "param", "message"),
    [
        ([("user", "A?"), ("assistant", "B.")], "messages[1].role", "must be one of role user"),
        ([("assistant", "B.")], "messages[0]", "needs a question before it"),
        ([("user", "A?"), ("system", "B."), ("user", "C?")], "messages[1].role", "come before all others"),
        ([("user", " ")], "messages[0].content", "has no text"),
        ([("user", "<video> A?")], "messages[0].content", "1 x <video>, and it has 0 such media"),
        ([("user", "A</s>?")], "messages", "control token"),
        ([("system", "<s>"), ("user", "A?")], "messages", "control token"),
        ([("system", "<image>"), ("user", "A?")], "messages", "1 x <image>"),
    ],
)
def test_messages_that_are_no_conversation(gateway, messages, param, message):
    error = error_of(gateway, {"messages": [{"role": role, "content": content} for role, content in messages]})
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (b"{", {"content-type": "application/json"}, 400, "the request's body cannot be read"),
        (b"[" * 10_000, {"content-type": "application/json"}, 400, "the request's body cannot be read"),
        (b"\xff", {"content-type": "application/json"}, 400, "the request's body cannot be read"),
        (b"[]", {"content-type": "application/json"}, 400, "should be an object"),
        (b"{}", {"content-type": "text/plain"}, 415, "application/json"),
        (b"{}", {"content-type": "application/json; charset=utf-8"}, 400, "messages: Field required"),
    ],
)
def test_bodies_that_are_no_request(gateway, content, headers, status, message):
    response = httpx.post(f"{gateway.url}/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == status
    assert message in response.json()["error"]["message"]


def test_paths_and_methods_that_there_are_not(gateway):
    for method, path, status in (("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405), ("GET", "/x", 404)):
        response = httpx.request(method, f"{gateway.url}{path}")
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"


def test_version_health_and_metrics(gateway, server, start):
    assert "version" in httpx.get(f"{gateway.url}/version").json()
    assert httpx.get(f"{gateway.url}/health").json() == {"status": "ok"}
    server.then(Reply("A cat jumps.", num_cached_tokens=2))
    gateway.post(ask(text_part("What happens?")))
    assert gateway.metric("requests_total", key="", status="200") == 1
    assert gateway.metric("generated_tokens_total", key="") == 3
    assert gateway.metric("prompt_tokens_total", key="") == 4
    assert gateway.metric("cached_prompt_tokens_total", key="") == 2
    assert gateway.metric("time_to_first_token_seconds_count") == 1
    assert gateway.metric("inter_token_latency_seconds_count") == 2
    assert gateway.metric("requests_in_flight") == 0
    away = start("127.0.0.1:1", client={"connect_timeout_seconds": 1})
    unhealthy = httpx.get(f"{away.url}/health", timeout=20)
    assert unhealthy.status_code == 503
    assert "cannot reach" in unhealthy.json()["error"]["message"]
    refused = away.post(ask(text_part("What happens?")))
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


def test_ids_of_requests(gateway, server):
    response = gateway.post(ask(text_part("What?"), request_id="job-7"))
    assert (response.json()["id"], response.headers["x-request-id"]) == ("chatcmpl-job-7", "job-7")
    assert server.requests[0].id == "job-7"
    assert gateway.post(ask(text_part("What?")), headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"
    assert gateway.post(ask(text_part("What?")), headers={"x-request-id": "a-b"}).headers["x-request-id"] == "a-b"


def test_the_callers_trace_goes_on(gateway, server):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    gateway.post(ask(text_part("What?")), headers={"traceparent": trace})
    assert server.requests[0].metadata["traceparent"] == trace


def test_token_ids(gateway, server):
    server.then(Reply("A cat jumps."))
    (choice,) = gateway.post(ask(text_part("What?"), return_token_ids=True)).json()["choices"]
    assert choice["token_ids"] == [0, 1, 2]
