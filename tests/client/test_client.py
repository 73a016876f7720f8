"""One connection, many requests: what is sent, what comes back, and how it ends."""

import threading
import time

import grpc
import numpy as np
import pytest
from client.helpers import CAT, Raw, delta, raw, replace_method
from PIL import Image
from video_llava_client import (
    Cancelled,
    Clip,
    DeadlineExceeded,
    Internal,
    InterruptedStream,
    InvalidRequest,
    MediaLimits,
    MediaTooLarge,
    ModelLimits,
    OptionError,
    PromptError,
    ServerError,
    StateError,
    Unavailable,
    VideoLlava,
)
from video_llava_client.messages import messages
from video_llava_client.testing import Abort, FakeServer, Hang
from video_llava_client.testing.protocol import answer_message


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))


# What is sent


def test_a_question_about_a_video(client, server, bikes):
    client.ask("What is this?", video=bikes, max_tokens=7, temperature=0.5)
    tensors = dict(server.requests[0].tensors)
    frames = tensors.pop("video_frames")
    returned = ("finish_reason", "num_input_tokens", "num_output_tokens", "token_ids", "num_cached_tokens")
    assert tensors == {
        "text_input": "USER: <video>\nWhat is this? ASSISTANT:",
        "sampling_parameters": '{"max_tokens": 7, "temperature": 0.5}',
        "stream": True,
        "exclude_input_in_output": True,
        **{f"return_{name}": True for name in (*returned, "stage_seconds")},
    }
    assert np.array_equal(frames, Clip.from_file(bikes, size=56).frames)


def test_the_request_itself(client, server):
    client.ask("Hello?")
    client.ask("Hello?", timeout_seconds=3)
    first, second = server.requests
    assert (first.model, first.id != second.id) == ("video_llava", True)
    assert first.parameters["triton_enable_empty_final_response"] is True
    # What was left when it was sent, in microseconds.
    assert 15_000_000 < first.parameters["timeout"] < 20_000_000
    assert 0 < second.parameters["timeout"] < 3_000_000
    assert 15 < first.seconds_left < 21
    assert 0 < second.seconds_left < 4


def test_several_videos_and_images_in_one_request(client, server, bikes, photo):
    clip = client.load(bikes)
    with bikes.open("rb") as file:
        videos = [str(bikes), clip, bikes.read_bytes(), file, clip.frames]
        answer = client.ask("What differs?", video=videos, images=[photo, np.asarray(photo)])
    (request,) = server.requests
    assert request.prompt == "USER: " + "<image>\n" * 2 + "<video>\n" * 5 + "What differs? ASSISTANT:"
    assert np.array_equal(request.video_frames, np.concatenate([clip.frames] * 5))
    assert request.image_frames.shape == (2, 56, 56, 3)
    assert (answer.frames[1], answer.reused.num_clips) == (clip.info, 1)


def test_the_limits_of_media_are_the_clients(server, bikes, photo):
    with VideoLlava(server.url, media_limits=MediaLimits(max_pixels=1000)) as client:
        for use in (
            lambda: client.ask("What?", video=bikes),
            lambda: client.ask("What?", images=photo),
            lambda: client.load(bikes),
        ):
            with pytest.raises(MediaTooLarge, match="over the limit max_pixels=1000"):
                use()


def test_the_frame_size_is_the_servers_and_asked_once(bikes, monkeypatch):
    asked = []
    original = FakeServer.ModelMetadata
    monkeypatch.setattr(FakeServer, "ModelMetadata", lambda *a: asked.append(a[1].name) or original(*a))
    limits = ModelLimits(image_size=32, num_frames=8, tokens_per_frame=17, tokens_per_image=16, max_model_len=4096)
    with FakeServer(limits=limits) as server, VideoLlava(server.url) as client:
        client.ask("Hello?")
        assert asked == []
        clip = client.load(bikes)
        client.ask("What is this?", video=clip)
    assert asked == ["video_encoder"]
    assert clip.frames.shape == (8, 32, 32, 3)


def test_a_prompt_is_sent_unchanged_and_sampling_overrides(client, server):
    prompt = "USER: Who? ASSISTANT: A cat.</s>USER: Where? ASSISTANT:"
    client.ask(prompt=prompt, max_tokens=7, sampling={"top_p": 0.5, "max_tokens": 9})
    assert server.requests[0].prompt == prompt
    assert server.requests[0].sampling == {"max_tokens": 9, "temperature": 0.0, "top_p": 0.5}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, PromptError, "exactly one of question and prompt="),
        ({"question": "Who?", "max_token": 5}, TypeError, "unexpected keyword arguments max_token; known are"),
        ({"question": "Who?", "prompt": "USER: Who? ASSISTANT:"}, PromptError, "exactly one of question and prompt="),
        ({"question": "Who?</s>"}, PromptError, "control token"),
        ({"prompt": "USER: <video>\nWho? ASSISTANT:"}, PromptError, "has 1 x <video>, but 0"),
        ({"question": "Who?", "max_tokens": 0}, OptionError, "max_tokens must be at least 1, got 0"),
        ({"question": "Who?", "temperature": -1.0}, OptionError, "temperature must be 0 .* or more, got -1.0"),
        ({"question": "Who?", "temperature": float("nan")}, OptionError, "temperature must be 0 .* got nan"),
        ({"question": "Who?", "timeout_seconds": 0}, OptionError, "timeout_seconds must be more than 0"),
        ({"question": "Who?", "sampling": {"n": 2}}, OptionError, "sampling n=2: a request has one answer"),
        ({"question": "Who?", "sampling": {"stop": {1}}}, OptionError, "only JSON values"),
        ({"question": "Who?", "start_seconds": 2}, OptionError, "need a video that is not decoded yet"),
        (
            {"question": "Who?", "video": np.zeros((8, 9, 9, 3), np.uint8), "end_seconds": 2},
            OptionError,
            "frames have no times",
        ),
    ],
)
def test_what_is_refused_before_anything_is_sent(connect, server, arguments, error, message):
    with pytest.raises(error, match=message):
        connect(server.url).call("ask", **arguments)
    assert server.requests == []


# What comes back


def test_the_whole_answer(client, server, bikes):
    server.then(CAT)
    answer = client.ask("What is this?", video=bikes)
    assert (answer.text, answer.finish_reason, answer.token_ids) == ("The cat jümps.", "stop", (1, 2, 3))
    assert (answer.num_input_tokens, answer.num_cached_tokens, answer.num_output_tokens) == (2063, 2048, 3)
    seconds = answer.stage_seconds
    assert (seconds.encode, seconds.queue, seconds.prefill, seconds.generation) == (0.25, 0.5, 0.125, 2.0)
    assert 0 < (seconds.first_token or 0) <= seconds.total
    assert 0 < seconds.preprocess < seconds.total
    assert 0 < seconds.decode < seconds.total
    assert answer.frames[0].indices == (0, 31, 62, 93, 125, 156, 187, 218)
    assert (answer.num_attempts, seconds.retries, seconds.transfer) == (1, 0.0, 0.0)  # the fake server says 2.875 s
    assert (answer.reused.num_tokens, answer.reused.num_clips) == (2048, 0)


def test_the_answer_in_deltas(connect, server):
    server.then(CAT)
    deltas = connect(server.url).read()
    assert [delta.text for delta in deltas] == ["The", " cat", " jümps."]
    assert [delta.token_ids for delta in deltas] == [(1,), (2,), (3,)]
    assert [delta.finish_reason for delta in deltas] == [None, None, "stop"]


def test_deltas_come_as_they_are_sent(connect, server):
    seen = threading.Event()

    def slow(_request, _context):
        yield delta("The", 1)
        assert seen.wait(10)
        yield delta(" cat", 2, reason="length", final=True)

    server.then(Raw(send=slow))
    with connect(server.url).stream() as stream:
        assert next(stream).text == "The"
        seen.set()
        assert [delta.text for delta in stream] == [" cat"]
    assert (stream.answer.text, stream.answer.request_id) == ("The cat", stream.request_id)


@pytest.mark.parametrize(
    "step",
    [
        raw(delta("cat", 1, reason="stop"), answer_message({}, final=True)),  # the mark of the end comes alone
        raw(delta("cat", 1, reason="stop", final=True, mood="happy")),  # an output of a later server
    ],
)
def test_responses_of_other_forms(connect, server, step):
    server.then(step)
    client = connect(server.url)
    assert [delta.text for delta in client.read()] == ["cat"]
    assert client.ask().text == "cat"


# What ends it


def test_a_stream_says_how_far_it_is(client, server):
    server.then(CAT)
    stream = client.stream("What?")
    assert repr(stream) == "AnswerStream(not sent)"
    with stream:
        next(stream)
        assert repr(stream) == f"AnswerStream({stream.request_id!r}, 1 deltas received)"
        list(stream)
    assert repr(stream) == f"AnswerStream({stream.request_id!r}, finished)"


def test_leaving_the_block_cancels(connect, server):
    server.then(Hang(after_tokens=1))
    with connect(server.url).stream() as stream:
        next(stream)
    assert server.requests[0].cancelled.wait(5)
    with pytest.raises(StateError, match="the answer is not complete"):
        _ = stream.answer


def test_a_cancelled_call_has_ended_when_its_block_is_left(client, server):
    server.then(Hang(after_tokens=1))
    with client.stream("What?") as stream:
        next(stream)
    # False: its end has been handled, so that no thread of gRPC's is left with one of its locks.
    assert not stream._driver.call.add_callback(lambda: None)


def test_a_complete_answer_is_not_cancelled(connect, server):
    client = connect(server.url)

    def slow_to_end(_request, _context):
        yield delta("cat", 1, reason="stop", final=True)
        time.sleep(0.1)

    server.then(Raw(send=slow_to_end))
    with client.stream() as stream:
        next(stream)
    assert stream.answer.text == "cat"
    client.ask("And then?")
    assert not server.requests[0].cancelled.is_set()


@pytest.mark.parametrize("close", ["client", "stream"])
def test_another_thread_may_cancel(server, close):
    server.then(Hang())
    with VideoLlava(server.url) as client, client.stream("What?") as stream:
        threading.Timer(0.2, client.close if close == "client" else stream.close).start()
        with pytest.raises(Cancelled, match="was cancelled"):
            next(stream)
    assert server.requests[0].cancelled.wait(5)


def test_a_closed_client_sends_nothing(connect, server, bikes):
    client = connect(server.url)
    client.call("close")
    for use in (client.ask, lambda: client.call("load", bikes)):
        with pytest.raises(StateError, match="this client is closed"):
            use()
    assert server.requests == []


def test_a_client_closed_before_the_block_sends_nothing(connect, server):
    client = connect(server.url)
    stream = client.stream()
    client.call("close")
    with pytest.raises(StateError, match="this client is closed"), stream:
        pass
    assert server.requests == []


def test_a_stream_is_read_inside_its_block_and_once(connect, server):
    stream = connect(server.url).stream()
    with pytest.raises(StateError, match=r"write `(async )?with client"):
        next(stream)
    with stream:
        list(stream)
    with pytest.raises(StateError, match=r"a stream serves one `(async )?with` block"), stream:
        pass


# What goes wrong


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("INVALID_ARGUMENT: 4112 tokens do not fit: ask less", InvalidRequest, "^4112 tokens do not fit: ask less$"),
        ("in ensemble 'video_llava', UNAVAILABLE: 64 requests wait: try later", Unavailable, "^64 requests wait"),
        ("DEADLINE_EXCEEDED: too late", DeadlineExceeded, "^too late$"),
        ("CANCELLED: given up", Cancelled, "^given up$"),
        ("INTERNAL: the engine died", Internal, "^the engine died$"),
        ("unexpected shape for input 'stream'", ServerError, "^unexpected shape for input 'stream'$"),
        (f"INTERNAL: {'x' * 9000} try later", Internal, "^x{150} … x+ try later$"),
    ],
)
def test_errors_by_their_code(client, server, text, error, message):
    server.then(raw(delta("The", 1), text))
    with pytest.raises(error, match=message) as caught:
        client.ask("What?")
    assert type(caught.value) is error
    assert len(str(caught.value)) <= 500
    assert caught.value.request_id == server.requests[0].id
    assert [delta.text for delta in caught.value.received] == ["The"]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (raw(delta("The", 1)), "ended the stream before the answer was complete"),
        (Abort(after_tokens=1), "lost the connection .* in the middle of the answer"),
        (
            Abort(grpc.StatusCode.INTERNAL, "Stream removed (RST_STREAM with error code 2)", after_tokens=1),
            "lost the connection .* in the middle of the answer",
        ),
    ],
)
def test_a_stream_that_breaks_off(connect, server, step, message):
    server.then(step)
    with pytest.raises(InterruptedStream, match=message) as caught:
        connect(server.url).ask()
    assert len(caught.value.received) == len(server.requests) == 1  # not asked again
    assert isinstance(caught.value, ConnectionError)


def test_the_deadline(connect, server):
    server.then(Hang())
    with pytest.raises(DeadlineExceeded, match=r"within timeout_seconds=0\.3: allow more time") as caught:
        connect(server.url).ask(timeout_seconds=0.3)
    assert isinstance(caught.value, TimeoutError)
    assert server.requests[0].cancelled.wait(5)


@pytest.mark.parametrize("with_media", [False, True])
def test_no_server(connect, bikes, with_media):
    with pytest.raises(Unavailable, match=r"cannot reach 127\.0\.0\.1:1 .*: check the address"):
        connect("127.0.0.1:1", timeout_seconds=2).ask("What?", **({"video": bikes} if with_media else {}))


def test_an_encoder_of_another_shape(connect, server, bikes, monkeypatch):
    metadata = messages.ModelMetadataResponse(name="video_encoder")
    metadata.inputs.add(name="frames", datatype="UINT8", shape=[-1, 3, 224, 224])
    replace_method(monkeypatch, server, "ModelMetadata", lambda *_: metadata)
    with pytest.raises(Internal, match="'video_encoder' should take frames"):
        connect(server.url).ask("What?", video=bikes)


@pytest.mark.parametrize(
    "message",
    [
        delta("cat", 1, reason="stop", final=True, token_ids="no list"),
        delta("cat", 1, reason="stop", final=True, stage_seconds="{}"),
        answer_message({"text_output": "cat"}, final=True),
    ],
)
def test_answers_that_cannot_be_read(client, server, message):
    server.then(raw(message))
    with pytest.raises(Internal, match="sent an answer that this client cannot read"):
        client.ask("What?")
