"""What one request may have of its own, and many requests at once."""

import asyncio
import logging
from dataclasses import replace

import pytest
from client.helpers import CAT
from pydantic import BaseModel
from video_llava_client import (
    AsyncVideoLlava,
    InvalidRequest,
    OptionError,
    Retry,
    StateError,
    Timeouts,
    TokenLogprob,
    Unavailable,
    VideoLlava,
)
from video_llava_client.testing import FakeServer, Hang, Refuse, Reply
from video_llava_client.testing.server import LIMITS

FULL = Refuse("UNAVAILABLE: 64 requests are in flight: try again, reason=full, retry_after_seconds=0.4")


class Weather(BaseModel):
    is_sunny: bool
    degrees: int


# Of its own


def test_headers_token_and_id_of_a_request(connect, server):
    client = connect(server.url, headers={"x-team": "a", "x-user": "b"}, token="ours")
    answer = client.ask(headers={"x-user": "c"}, token="theirs", request_id="job-7")
    client.ask()
    first, second = server.requests
    assert [first.metadata[name] for name in ("x-team", "x-user", "authorization")] == ["a", "c", "Bearer theirs"]
    assert [second.metadata[name] for name in ("x-team", "x-user", "authorization")] == ["a", "b", "Bearer ours"]
    assert (answer.request_id, first.id) == ("job-7", "job-7")
    assert answer.url == server.url
    assert isinstance(answer.headers, dict)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"headers": {"Bad Name": "x"}}, "'Bad Name' is not a valid name"),
        ({"request_id": "a\nb"}, "request_id must be printable ASCII"),
        ({"timeout_seconds": Timeouts(total=0.5, first_token=9)}, None),
        ({"response_format": dict}, "response_format must be a Pydantic model"),
        (
            {"response_format": Weather, "sampling": {"structured_outputs": {"regex": "a"}}},
            "give one of response_format= and sampling structured_outputs",
        ),
    ],
)
def test_options_that_cannot_be_used(connect, server, options, message):
    if message is None:
        assert connect(server.url).ask(**options).text
        return
    with pytest.raises(OptionError, match=message):
        connect(server.url).ask(**options)
    assert server.requests == []


def test_the_adapter_of_a_request(connect):
    """It is a sampling parameter, and an unknown one is refused with those that exist."""
    with FakeServer(limits=replace(LIMITS, lora_names=("red", "blue"))) as server:
        client = connect(server.url)
        assert client.call("info").limits.lora_names == ("red", "blue")
        client.ask(lora_name="red")
        with pytest.raises(InvalidRequest, match=r"lora_name is 'nobody', there is no such.* server has red, blue$"):
            client.ask(lora_name="nobody")
        client.ask()
    assert [request.sampling.get("lora_name") for request in server.requests] == ["red", "nobody", None]
    assert "lora_name" not in server.requests[-1].sampling


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_timeouts_that_cannot_be_used(seconds):
    with pytest.raises(OptionError, match="must be more than 0 and finite"):
        Timeouts(first_token=seconds)


def test_a_pydantic_model_as_the_form_of_the_answer(connect, server):
    server.then(Reply('{"is_sunny": true, "degrees": 21}'))
    client = connect(server.url)
    answer = client.ask("How is it?", response_format=Weather)
    assert answer.parsed == Weather(is_sunny=True, degrees=21)
    assert server.requests[0].sampling["structured_outputs"] == {"json": Weather.model_json_schema()}
    assert client.ask("How is it?").parsed is None
    cut_off = client.ask("How is it?", response_format=Weather, max_tokens=2)
    with pytest.raises(StateError, match=r"the answer is no Weather \(finish_reason 'length'.*allow more max_tokens"):
        _ = cut_off.parsed


def test_the_texts_of_a_stream_and_its_end(server):
    server.then(CAT)
    with VideoLlava(server.url) as client:
        with client.stream("What?") as stream:
            assert list(stream.text_stream) == ["The", " cat", " jümps."]
        with client.stream("What?") as stream:
            next(stream)
            assert stream.until_done().text == "The cat jümps."

    async def read():
        async with AsyncVideoLlava(server.url) as client, client.stream("What?") as stream:
            return [text async for text in stream.text_stream], (await stream.until_done()).text

    assert asyncio.run(read()) == (["The", " cat", " jümps."], "The cat jümps.")


def test_a_client_with_other_options_over_the_same_connection(connect, server):
    connected = connect(server.url, headers={"x-team": "a"})
    connected.ask()
    other = connected.client.with_options(headers={"x-user": "b"}, timeout_seconds=3, model="other")
    assert (other.timeout_seconds, other.model, connected.client.model) == (3, "other", "video_llava")
    result = other.ask("Hello?")
    _ = connected._runner.run(result) if connected._runner else result
    first, second = server.requests
    assert (second.metadata["x-team"], second.metadata["x-user"], second.model) == ("a", "b", "other")
    assert first.peer == second.peer
    with pytest.raises(OptionError, match=r"with_options takes timeout_seconds, .*, got tls"):
        connected.client.with_options(tls=None)


# Servers that are full or silent


def test_a_full_server_is_asked_no_earlier_than_it_says(connect, server):
    server.then(FULL, Reply())
    answer = connect(server.url, retry=Retry(first_wait_seconds=0)).ask()
    assert answer.num_attempts == 2
    assert answer.stage_seconds.retries >= 0.4


def test_of_two_replicas_the_one_with_room_is_asked_at_once(connect):
    with FakeServer(FULL) as full, FakeServer() as other:
        answer = connect([full.url, other.url]).ask()
        assert (answer.num_attempts, answer.url) == (2, other.url)
        assert (len(full.requests), len(other.requests)) == (1, 1)


def test_what_a_full_server_says_is_in_the_error(connect, server):
    server.then(FULL)
    with pytest.raises(Unavailable) as caught:
        connect(server.url, retry=Retry(num_attempts=1)).ask()
    assert (caught.value.reason, caught.value.retry_after_seconds) == ("full", 0.4)


def test_a_server_that_is_silent_is_given_up_for_another(connect):
    with FakeServer(Hang()) as silent, FakeServer() as other:
        client = connect([silent.url, other.url], timeout_seconds=Timeouts(total=60, first_token=0.3))
        answer = client.ask()
        assert (answer.num_attempts, answer.url) == (2, other.url)
        assert silent.requests[0].cancelled.wait(5)
    with FakeServer(Hang()) as silent, pytest.raises(Unavailable, match=r"sent nothing within .*first_token=0\.3"):
        connect(silent.url, retry=Retry(num_attempts=1)).ask(timeout_seconds=Timeouts(first_token=0.3))


def test_retries_are_in_the_log(connect, server, caplog):
    server.then(FULL, Reply())
    with caplog.at_level(logging.INFO, logger="video_llava_client"):
        connect(server.url).ask(request_id="job-8")
    (record,) = (record for record in caplog.records if record.name == "video_llava_client")
    assert "request job-8: attempt 1 at 127.0.0.1:" in record.getMessage()
    assert "retry_after_seconds=0.4); the next in 0." in record.getMessage()


def test_log_probabilities(connect, server):
    server.then(Reply("A cat."))
    client = connect(server.url)
    first, second = client.read(logprobs=2)
    assert first.logprobs == (
        {0: TokenLogprob(-1.0, rank=1, decoded_token=" A"), -2: TokenLogprob(-2.0, rank=2, decoded_token="?")},
    )
    assert client.ask(logprobs=2).logprobs == first.logprobs + second.logprobs
    assert server.requests[-1].sampling["logprobs"] == 2
    assert client.ask().logprobs == ()
    assert "return_logprobs" not in server.requests[-1].tensors


# Many


def read_many(connected, questions, **options):
    if connected._runner is None:
        return list(connected.client.ask_many(questions, **options))

    async def read():
        return [each async for each in connected.client.ask_many(questions, **options)]

    return connected._runner.run(read())


def test_many_questions_are_answered_in_their_order(connect):
    def reply(request):
        number = int(request.prompt.split()[1])
        step = Reply(str(number), seconds_per_token=0.05 * (number % 3))
        return Refuse("INVALID_ARGUMENT: no") if number == 7 else step

    with FakeServer(script=reply) as server:
        questions = [{"question": f"{number} ?", "max_tokens": 1 + number % 2} for number in range(40)]
        results = read_many(connect(server.url), questions, concurrency=8, max_tokens=9)
        assert [type(each) for each in results].count(InvalidRequest) == 1
        assert [int(each.text) for each in results if not isinstance(each, Exception)] == [*range(7), *range(8, 40)]
        assert {request.sampling["max_tokens"] for request in server.requests} == {1, 2}
        # A bad question is one of the results, too.
        (bad,) = read_many(connect(server.url), [{"question": "?", "max_tokens": 0}])
        assert isinstance(bad, OptionError)


def test_many_questions_are_read_as_they_are_needed(connect, server):
    taken = []

    def endless():
        while True:
            taken.append(len(taken))
            yield f"{len(taken)} ?"

    connected = connect(server.url)
    if connected._runner is None:
        results = connected.client.ask_many(endless(), concurrency=4)
        first = [next(results) for _ in range(3)]
        results.close()
    else:

        async def read():
            results = connected.client.ask_many(endless(), concurrency=4)
            first = [await anext(results) for _ in range(3)]
            await results.aclose()
            return first

        first = connected._runner.run(read())
    assert all(answer.text for answer in first)
    assert 8 <= len(taken) <= 12
