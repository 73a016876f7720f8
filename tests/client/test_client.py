"""One connection, many requests: what is sent, what comes back, and what happens when it does not."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import grpc
import numpy as np
import pytest
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
    OptionError,
    PromptError,
    ServerError,
    StateError,
    Unavailable,
    VideoLlava,
)


@pytest.fixture
def photo():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))


def wait_until_gone(_inputs, _request, context):
    while context.is_active():
        time.sleep(0.005)
    yield from ()


# What is sent


def test_a_question_about_a_video(client, triton, bikes):
    client.ask("What is this?", video=bikes, max_tokens=7, temperature=0.5)
    (inputs,) = triton.inputs
    frames = inputs.pop("video_frames")
    assert inputs == {
        "text_input": "USER: <video>\nWhat is this? ASSISTANT:",
        "sampling_parameters": '{"max_tokens": 7, "temperature": 0.5}',
        "stream": True,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
        "return_token_ids": True,
        "return_num_cached_tokens": True,
        "return_stage_seconds": True,
    }
    assert np.array_equal(frames, Clip.from_file(bikes, size=56).frames)


def test_the_request_itself(client, triton):
    client.ask("Hello?")
    client.ask("Hello?", timeout_seconds=3)
    first, second = triton.requests
    assert first.model_name == "video_llava"
    assert first.id != second.id
    assert dict(first.parameters).keys() == {"triton_enable_empty_final_response", "timeout"}
    assert first.parameters["triton_enable_empty_final_response"].bool_param
    assert first.parameters["timeout"].int64_param == 20_000_000
    assert second.parameters["timeout"].int64_param == 3_000_000
    assert 15 < triton.seconds_left[0] < 21
    assert 0 < triton.seconds_left[1] < 4


def test_several_videos_and_images_in_one_request(client, triton, bikes, photo):
    clip = client.load(bikes)
    answer = client.ask("What differs?", video=[str(bikes), clip], images=[photo, np.asarray(photo)])
    (inputs,) = triton.inputs
    assert inputs["text_input"] == "USER: <image>\n<image>\n<video>\n<video>\nWhat differs? ASSISTANT:"
    assert np.array_equal(inputs["video_frames"], np.concatenate([clip.frames, clip.frames]))
    assert inputs["image_frames"].shape == (2, 56, 56, 3)
    assert answer.frames == (clip.info, clip.info)


def test_a_video_may_be_a_path_bytes_a_file_or_frames(client, triton, bikes):
    clip = client.load(bikes)
    with bikes.open("rb") as file:
        client.ask("What differs?", video=[bikes, bikes.read_bytes(), file, clip.frames])
    (inputs,) = triton.inputs
    assert np.array_equal(inputs["video_frames"], np.concatenate([clip.frames] * 4))


def test_a_part_of_a_video(client, triton, bikes):
    answer = client.ask("What?", video=bikes, start_seconds=2, end_seconds=4)
    assert (answer.frames[0].indices[0], answer.frames[0].pts_seconds[0]) == (50, 2.0)
    clip = client.load(bikes, start_seconds=2, end_seconds=4)
    assert np.array_equal(triton.inputs[0]["video_frames"], clip.frames)


@pytest.mark.parametrize("ready", [True, False])
def test_a_part_needs_a_file(client, triton, bikes, ready):
    video = client.load(bikes) if ready else None
    with pytest.raises(OptionError, match="need a video that is not decoded yet"):
        client.ask("What?", video=video, start_seconds=2)
    assert triton.requests == []


def test_the_limits_of_media_are_the_clients(triton, bikes, photo):
    limits = MediaLimits(max_pixels=1000)
    with VideoLlava(triton.url, media_limits=limits) as client:
        for media in ({"video": bikes}, {"images": photo}):
            with pytest.raises(MediaTooLarge, match="over the limit max_pixels=1000"):
                client.ask("What?", **media)
        with pytest.raises(MediaTooLarge, match="over the limit max_pixels=1000"):
            client.load(bikes)


def test_a_single_image_is_no_list_of_images(client, triton, photo):
    client.ask("What is this?", images=np.asarray(photo))
    assert triton.inputs[0]["image_frames"].shape == (1, 56, 56, 3)


def test_the_frame_size_is_the_servers_and_asked_for_once(client, triton, bikes):
    triton.frame_shape = [-1, -1, 32, 32, 3]
    client.ask("Hello?")
    assert triton.asked_metadata == []
    clip = client.load(bikes)
    client.ask("What is this?", video=clip)
    assert triton.asked_metadata == ["video_encoder"]
    assert clip.frames.shape == (8, 32, 32, 3)


def test_a_prompt_goes_as_it_is(client, triton):
    client.ask(prompt="USER: Who? ASSISTANT: A cat.</s>USER: Where? ASSISTANT:")
    assert triton.inputs[0]["text_input"] == "USER: Who? ASSISTANT: A cat.</s>USER: Where? ASSISTANT:"


def test_any_sampling_parameter_may_be_given_and_wins(client, triton):
    client.ask("Hello?", max_tokens=7, sampling={"top_p": 0.5, "max_tokens": 9})
    assert triton.inputs[0]["sampling_parameters"] == '{"max_tokens": 9, "temperature": 0.0, "top_p": 0.5}'


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, PromptError, "exactly one of question and prompt="),
        ({"question": "Who?", "prompt": "USER: Who? ASSISTANT:"}, PromptError, "exactly one of question and prompt="),
        ({"question": "Who?</s>"}, PromptError, "control token"),
        ({"prompt": "USER: <video>\nWho? ASSISTANT:"}, PromptError, "holds 1 x <video>, but 0"),
        ({"question": "Who?", "max_tokens": 0}, OptionError, "max_tokens must be at least 1, got 0"),
        ({"question": "Who?", "temperature": -1.0}, OptionError, "temperature must be 0 .* or more, got -1.0"),
        ({"question": "Who?", "temperature": float("nan")}, OptionError, "temperature must be 0 .* got nan"),
        ({"question": "Who?", "timeout_seconds": 0}, OptionError, "timeout_seconds must be more than 0"),
        ({"question": "Who?", "sampling": {"n": 2}}, OptionError, "sampling n=2: a request has one answer"),
        ({"question": "Who?", "sampling": {"stop": {1}}}, OptionError, "only values that JSON knows"),
    ],
)
def test_what_is_refused_before_anything_is_sent(client, triton, arguments, error, message):
    with pytest.raises(error, match=message):
        client.ask(**arguments)
    assert triton.requests == []


@pytest.mark.parametrize("url", ["", "http://localhost:8001"])
def test_an_address_with_a_scheme_is_refused(url):
    with pytest.raises(OptionError, match="url must be host:port without a scheme"):
        VideoLlava(url)


# What comes back


def test_the_whole_answer(client, bikes):
    answer = client.ask("What is this?", video=bikes)
    assert (answer.text, answer.finish_reason, answer.token_ids) == ("The cat jümps.", "stop", (1, 2, 3))
    assert (answer.num_input_tokens, answer.num_cached_tokens, answer.num_output_tokens) == (2063, 2048, 3)
    seconds = answer.stage_seconds
    assert (seconds.encode, seconds.queue, seconds.prefill, seconds.generation) == (0.25, 0.5, 0.125, 2.0)
    assert seconds.first_token is not None
    assert 0 < seconds.first_token <= seconds.total
    assert 0 < seconds.preprocess < seconds.total
    assert 0 < seconds.decode < seconds.total
    assert answer.frames[0].indices == (0, 31, 62, 93, 125, 156, 187, 218)
    assert (answer.num_attempts, seconds.retries, seconds.transfer) == (1, 0.0, 0.0)  # the fake server says 2.875 s
    assert (answer.reused.num_tokens, answer.reused.num_clips) == (2048, 0)


def test_the_answer_in_deltas(client):
    with client.stream("What is this?") as stream:
        deltas = list(stream)
    assert [delta.text for delta in deltas] == ["The", " cat", " jümps."]
    assert [delta.token_ids for delta in deltas] == [(1,), (2,), (3,)]
    assert [delta.finish_reason for delta in deltas] == [None, None, "stop"]
    assert (stream.answer.text, stream.answer.num_output_tokens) == ("The cat jümps.", 3)
    assert stream.answer.token_ids == (1, 2, 3)
    assert stream.answer.request_id == stream.request_id
    assert 0 < (stream.answer.stage_seconds.first_token or 0) <= stream.answer.stage_seconds.total


def test_deltas_come_as_they_are_sent(client, triton, send):
    seen = threading.Event()

    def slow(_inputs, _request, _context):
        yield send.delta("The", 1)
        assert seen.wait(10)
        yield send.delta(" cat", 2, reason="length", final=True)

    triton.script = slow
    with client.stream("What?") as stream:
        assert next(stream).text == "The"
        seen.set()
        assert [delta.text for delta in stream] == [" cat"]


def test_the_mark_of_the_end_may_come_alone(client, triton, send):
    triton.script = lambda *_: iter([send.delta("cat", 1, reason="stop"), send.response({}, final=True)])
    with client.stream("What?") as stream:
        assert [delta.text for delta in stream] == ["cat"]
    assert stream.answer.text == "cat"


def test_outputs_of_a_later_server_are_passed_over(client, triton, send):
    triton.script = lambda *_: iter([send.delta("cat", 1, reason="stop", final=True, mood="happy")])
    assert client.ask("What?").text == "cat"


def test_many_streams_share_one_connection(client, triton, send):
    num_streams = 32
    all_here = threading.Barrier(num_streams)

    def echo(inputs, _request, _context):
        all_here.wait(10)
        name = inputs["text_input"].split()[1]
        yield send.delta(name, 1)
        yield send.delta(name, 2, reason="stop", final=True)

    triton.script = echo

    def ask(number):
        with client.stream(f"{number}") as stream:
            return "".join(delta.text for delta in stream)

    with ThreadPoolExecutor(num_streams) as pool:
        assert list(pool.map(ask, range(num_streams))) == [f"{number}{number}" for number in range(num_streams)]
    assert len(triton.peers) == 1
    assert len({request.id for request in triton.requests}) == num_streams


# What ends it


def test_leaving_the_block_cancels(client, triton, send):
    sent = count()

    def endless(_inputs, _request, context):
        while context.is_active():
            yield send.delta("a", next(sent))
            time.sleep(0.005)

    triton.script = endless
    with client.stream("What?") as stream:
        next(stream)
    assert triton.cancelled.wait(5)
    with pytest.raises(StateError, match="the answer is not complete"):
        _ = stream.answer


def test_a_complete_answer_is_not_cancelled(client, triton, send):
    def slow_to_end(_inputs, _request, _context):
        yield send.delta("cat", 1, reason="stop", final=True)
        time.sleep(0.1)

    triton.script = slow_to_end
    with client.stream("What?") as stream:
        next(stream)
    assert stream.answer.text == "cat"
    del stream
    client.ask("And then?")
    assert not triton.cancelled.is_set()


def test_closing_the_client_cancels_what_is_open(triton):
    triton.script = wait_until_gone
    with VideoLlava(triton.url) as client, client.stream("What?") as stream:
        threading.Timer(0.2, client.close).start()
        with pytest.raises(Cancelled, match="was cancelled"):
            next(stream)
    assert triton.cancelled.wait(5)


def test_another_thread_may_cancel(client, triton):
    triton.script = wait_until_gone
    with client.stream("What?") as stream:
        threading.Timer(0.2, stream.close).start()
        with pytest.raises(Cancelled, match="was cancelled"):
            next(stream)
    assert triton.cancelled.wait(5)


def test_a_closed_client_sends_nothing(client, bikes):
    client.close()
    with pytest.raises(StateError, match="this client is closed"):
        client.ask("What?")
    with pytest.raises(StateError, match="this client is closed"):
        client.load(bikes)


def test_a_client_closed_before_the_block_sends_nothing(client):
    stream = client.stream("What?")
    client.close()
    with pytest.raises(StateError, match="this client is closed"), stream:
        pass


def test_a_stream_is_read_inside_its_block_and_once(client):
    stream = client.stream("What?")
    with pytest.raises(StateError, match="write `with client"):
        next(stream)
    with stream:
        list(stream)
    with pytest.raises(StateError, match="a stream serves one `with` block"), stream:
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
    ],
)
def test_errors_by_their_code(client, triton, send, text, error, message):
    triton.script = lambda *_: iter([send.delta("The", 1), send.error(text)])
    with pytest.raises(error, match=message) as caught:
        client.ask("What?")
    assert type(caught.value) is error
    assert caught.value.request_id == triton.requests[0].id
    assert [delta.text for delta in caught.value.received] == ["The"]


def test_a_stream_that_ends_too_early(client, triton, send):
    triton.script = lambda *_: iter([send.delta("The", 1), send.delta(" cat", 2)])
    with client.stream("What?") as stream:
        texts = [next(stream).text, next(stream).text]
        with pytest.raises(InterruptedStream, match="ended the stream before the answer was complete") as caught:
            next(stream)
    assert [delta.text for delta in caught.value.received] == texts == ["The", " cat"]
    assert isinstance(caught.value, ConnectionError)


def test_a_connection_lost_in_the_middle(client, triton, send):
    def cut(_inputs, _request, context):
        yield send.delta("The", 1)
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")

    triton.script = cut
    with pytest.raises(InterruptedStream, match=r"lost the connection .* in the middle of the answer") as caught:
        client.ask("What?")
    assert [delta.text for delta in caught.value.received] == ["The"]


def test_the_deadline(client, triton):
    triton.script = wait_until_gone
    with pytest.raises(DeadlineExceeded, match=r"within timeout_seconds=0\.3: allow more time") as caught:
        client.ask("What?", timeout_seconds=0.3)
    assert isinstance(caught.value, TimeoutError)
    assert triton.cancelled.wait(5)


def test_no_server(bikes):
    with VideoLlava("127.0.0.1:1", timeout_seconds=5) as client:
        for media in ({}, {"video": bikes}):
            with pytest.raises(Unavailable, match=r"cannot reach 127\.0\.0\.1:1 .*: check the address"):
                client.ask("What?", **media)


def test_an_encoder_of_another_shape(client, triton, bikes):
    triton.frame_shape = [-1, 3, 224, 224]
    with pytest.raises(Internal, match="'video_encoder' should take frames"):
        client.ask("What?", video=bikes)


@pytest.mark.parametrize("lacking", [{"token_ids": "no list"}, {"stage_seconds": "{}"}])
def test_answers_that_make_no_sense(client, triton, send, lacking):
    triton.script = lambda *_: iter([send.delta("cat", 1, reason="stop", final=True, **lacking)])
    with pytest.raises(Internal, match="answered what this client cannot read"):
        client.ask("What?")


def test_an_answer_that_lacks_outputs(client, triton, send):
    triton.script = lambda *_: iter([send.response({"text_output": "cat"}, final=True)])
    with pytest.raises(Internal, match=r"cannot read .KeyError: 'finish_reason'"):
        client.ask("What?")
