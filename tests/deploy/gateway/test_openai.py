"""OpenAI's own Python package as the caller."""

from dataclasses import replace

import openai
import pytest
from deploy.gateway.helpers import BIKES, ask, text_part, video_part
from pydantic import BaseModel
from video_llava_client import VideoLlava
from video_llava_client.testing import FakeServer, Refuse, Reply
from video_llava_client.testing.server import LIMITS

MODEL = "video_llava"


class Weather(BaseModel):
    is_sunny: bool
    degrees: int


def question(text="What happens?"):
    return [{"role": "user", "content": text}]


def test_an_answer(gateway, server):
    server.then(Reply("A cat jumps.", num_cached_tokens=2))
    answer = gateway.openai().chat.completions.create(model=MODEL, messages=question(), max_tokens=5, temperature=0)
    assert answer.choices[0].message.content == "A cat jumps."
    assert (answer.choices[0].finish_reason, answer.model, answer.object) == ("stop", MODEL, "chat.completion")
    assert answer.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 4,
        "completion_tokens": 3,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    assert answer.metrics["stage_seconds"]["generation"] == 0
    assert answer.id == f"chatcmpl-{server.requests[0].id}"


def test_a_stream_with_usage(gateway, server):
    server.then(Reply("A cat jumps."))
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(
        gateway.openai().chat.completions.create(
            model=MODEL, messages=question(), stream=True, stream_options=options, seed=7
        )
    )
    *answered, last = chunks
    assert [each.choices[0].delta.content for each in answered] == ["", "A", " cat", " jumps."]
    assert answered[0].choices[0].delta.role == "assistant"
    assert [each.choices[0].finish_reason for each in answered] == [None, None, None, "stop"]
    assert [each.usage.completion_tokens for each in chunks] == [0, 1, 2, 3, 3]
    assert (last.choices, last.usage.prompt_tokens) == ([], 4)
    assert last.metrics["time_to_first_token_ms"] > 0
    assert len({each.id for each in chunks}) == 1


def test_a_video_as_the_grpc_client_sends_it(gateway, server):
    gateway.openai().chat.completions.create(
        model=MODEL,
        **ask(video_part(BIKES.read_bytes()), text_part("What happens?"), temperature=0, max_tokens=7),
    )
    with VideoLlava(server.url) as client:
        client.ask("What happens?", video=BIKES, max_tokens=7)
    theirs, ours = server.requests
    assert theirs.prompt == ours.prompt == "USER: <video>\nWhat happens? ASSISTANT:"
    assert (theirs.video_frames == ours.video_frames).all()
    assert theirs.sampling == ours.sampling


def test_a_pydantic_model(gateway, server):
    server.then(Reply('{"is_sunny": true, "degrees": 21}'))
    answer = gateway.openai().chat.completions.parse(model=MODEL, messages=question(), response_format=Weather)
    assert answer.choices[0].message.parsed == Weather(is_sunny=True, degrees=21)
    schema = server.requests[0].sampling["structured_outputs"]["json"]
    assert schema["properties"].keys() == {"is_sunny", "degrees"}


@pytest.mark.parametrize("is_stream", [False, True])
def test_log_probabilities(gateway, server, is_stream):
    server.then(Reply("A cat."))
    got = gateway.openai().chat.completions.create(
        model=MODEL, messages=question(), logprobs=True, top_logprobs=2, stream=is_stream
    )
    choices = [chunk.choices[0] for chunk in got] if is_stream else got.choices
    content = [each for choice in choices if choice.logprobs for each in choice.logprobs.content]
    assert [(each.token, each.logprob, bytes(each.bytes)) for each in content] == [
        (" A", -1, b" A"),
        (" cat.", -1, b" cat."),
    ]
    assert [[top.logprob for top in each.top_logprobs] for each in content] == [[-1, -2]] * 2
    assert server.requests[0].sampling["logprobs"] == 2


def test_several_choices_are_requests_of_their_own_with_the_servers_seeds(gateway, server):
    server.then(script=lambda request: Reply(f"Seed {request.sampling['seed']}."))
    answer = gateway.openai().chat.completions.create(model=MODEL, messages=question(), n=3, seed=5, temperature=1)
    assert [choice.message.content for choice in answer.choices] == ["Seed 5.", "Seed 6.", "Seed 7."]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 6)
    assert answer.model_extra.keys() == set()


@pytest.mark.parametrize(
    ("step", "kind", "status", "seconds"),
    [
        (Refuse("INVALID_ARGUMENT: sampling_parameters: top_p is 2"), openai.BadRequestError, 400, None),
        (Refuse("UNAVAILABLE: full: reason=full, retry_after_seconds=2.5"), openai.RateLimitError, 429, "3"),
        (Refuse("UNAVAILABLE: no: reason=draining"), openai.InternalServerError, 503, "5"),
        (Refuse("UNAVAILABLE: no: reason=engine_dead"), openai.InternalServerError, 503, "5"),
        (Refuse("DEADLINE_EXCEEDED: too long"), openai.InternalServerError, 504, None),
        (Refuse("INTERNAL: broken"), openai.InternalServerError, 500, None),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_errors_are_the_packages_exceptions(gateway, server, step, kind, status, seconds, is_stream):
    server.then(step)
    with pytest.raises(kind) as caught:
        gateway.openai().chat.completions.create(model=MODEL, messages=question(), stream=is_stream)
    assert caught.value.status_code == status
    assert caught.value.response.headers.get("retry-after") == seconds
    assert caught.value.body["message"]
    assert caught.value.param == ("top_p" if status == 400 else None)


def test_an_error_in_the_middle_of_a_stream_ends_it(gateway, server):
    server.then(Refuse("INTERNAL: the engine is gone", after_tokens=2))
    texts = []
    with pytest.raises(openai.APIError, match="the engine is gone") as caught:
        for chunk in gateway.openai().chat.completions.create(model=MODEL, messages=question(), stream=True):
            texts.append(chunk.choices[0].delta.content)  # noqa: PERF401 (until the error)
    assert texts == ["", "This", " is"]
    assert caught.value.type == "server_error"
    assert gateway.metric("requests_total", key="", status="500") == 1


def test_an_adapter_is_a_model_of_its_own(start):
    with FakeServer(limits=replace(LIMITS, lora_names=("red", "blue", "mine"))) as server:
        client = start(server.url, model_names=("first", "mine")).openai()
        listed = {model.id: model for model in client.models.list().data}
        assert {name: model.parent for name, model in listed.items()} == {
            "first": None,
            "mine": None,
            "red": "first",
            "blue": "first",
        }
        assert client.models.retrieve("red").root == "red"
        asked = [client.chat.completions.create(model=name, messages=question()) for name in ("red", "mine", "blue")]
        assert [answer.model for answer in asked] == ["red", "mine", "blue"]
        assert [request.sampling.get("lora_name") for request in server.requests] == ["red", None, "blue"]
        with pytest.raises(openai.NotFoundError, match="there is no model 'green': ask for first, mine, red, blue"):
            client.chat.completions.create(model="green", messages=question())


def test_a_server_that_is_restarted_with_other_adapters_is_asked_again(start, server):
    client = start().openai()
    client.chat.completions.create(model=MODEL, messages=question())
    server._limits = replace(LIMITS, lora_names=("red",))
    assert client.chat.completions.create(model="red", messages=question()).model == "red"
    server._limits = LIMITS
    with pytest.raises(openai.BadRequestError, match="lora_name is 'red', there is no such adapter"):
        client.chat.completions.create(model="red", messages=question())


def test_models(gateway):
    client = gateway.openai()
    (model,) = client.models.list().data
    assert (model.id, model.max_model_len) == (MODEL, 4096)
    assert client.models.retrieve(MODEL).id == MODEL
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9'"):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9': ask for video_llava"):
        client.chat.completions.create(model="gpt-9", messages=question())
