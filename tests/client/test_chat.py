"""A conversation sends all its turns, each medium once, and says when no room is left."""

import asyncio
import io

import numpy as np
import pytest
from client.helpers import SMALL
from PIL import Image
from video_llava_client import (
    AsyncVideoLlava,
    ContextFull,
    MediaNotFound,
    OptionError,
    PromptError,
    Unavailable,
    VideoLlava,
)
from video_llava_client.testing import FakeServer, Hang, Refuse, Reply


@pytest.fixture
def server():
    with FakeServer(Reply("A cat."), Reply("On a mat."), Reply("Yes.")) as running:
        yield running


def test_each_turn_sends_the_whole_conversation_and_the_video_once(client, server, bikes):
    chat = client.chat(video=bikes)
    answers = [chat.ask(question) for question in ("What?", "Where?")]
    assert [answer.text for answer in answers] == ["A cat.", "On a mat."]
    first, second = server.requests
    assert first.prompt == "USER: <video>\nWhat? ASSISTANT:"
    assert second.prompt == "USER: <video>\nWhat? ASSISTANT: A cat.</s>USER: Where? ASSISTANT:"
    assert np.array_equal(first.video_frames, second.video_frames)
    assert chat.turns == (("What?", "A cat."), ("Where?", "On a mat."))
    assert (answers[0].stage_seconds.decode, answers[1].reused.num_clips) == (0, 1)  # decoded before


def test_images_that_can_be_read_once_and_several_videos(client, server, bikes):
    photo = io.BytesIO()
    Image.fromarray(np.arange(60 * 80 * 3, dtype=np.uint8).reshape(60, 80, 3)).save(photo, "PNG")
    photo.seek(0)
    chat = client.chat(video=[bikes, bikes], images=photo)
    chat.ask("What?")
    chat.ask("Where?")
    client.ask("What?", images=photo.getvalue())
    assert server.requests[0].prompt == "USER: <image>\n<video>\n<video>\nWhat? ASSISTANT:"
    sent = [request.image_frames for request in server.requests]
    assert np.array_equal(sent[0], sent[1])
    assert np.array_equal(sent[0], sent[2])


def test_a_missing_video_is_reported_before_the_first_question(connect, server):
    with pytest.raises(MediaNotFound, match=r"nothing\.mp4"):
        connect(server.url).call("chat", video="nothing.mp4")


def test_a_turn_that_was_left_or_failed_does_not_count(client, server):
    server.then(Hang(after_tokens=1), Refuse("UNAVAILABLE: full"))
    chat = client.chat()
    with chat.stream("What?") as stream:
        next(stream)
    with pytest.raises(Unavailable, match="full"):
        chat.ask("What?")
    server.then(Reply("A cat."))
    with chat.stream("And now?", max_tokens=7) as stream:
        assert "".join(delta.text for delta in stream) == "A cat."
    assert chat.turns == (("And now?", "A cat."),)
    assert server.requests[-1].sampling["max_tokens"] == 7


@pytest.mark.parametrize(
    ("question", "options", "error", "message"),
    [
        ("What?</s>", {}, PromptError, "control token"),
        ("What?", {"video": "clip.mp4"}, OptionError, r"a turn takes max_tokens, temperature, .* got video"),
    ],
)
def test_turns_that_cannot_be(client, question, options, error, message):
    with pytest.raises(error, match=message):
        client.chat().ask(question, **options)


def test_how_much_of_the_context_is_taken(client):
    chat = client.chat()
    assert (chat.history.num_positions, chat.history.num_positions_left) == (0, None)
    chat.ask("What?", max_tokens=1)
    assert (chat.history.num_positions, chat.history.max_positions) == (3 + 1, None)  # its own limit, not the context's


def test_a_full_context_is_reported_and_the_chat_can_begin_again():
    with FakeServer(Reply("one two three four five"), limits=SMALL) as server, VideoLlava(server.url) as client:
        chat = client.chat(images=np.zeros((56, 56, 3), np.uint8))
        with pytest.raises(ContextFull, match=r"the context holds 40 with the answer") as caught:
            for number in range(9):
                chat.ask(f"Question {number}?")
        assert caught.value.max_positions == chat.history.max_positions == 40
        assert len(chat.turns) > 2
        assert 0 <= (chat.history.num_positions_left or 0) < 12
        chat.clear()
        assert chat.ask("Once more?").text == "one two three four five"
        assert len(chat.turns) == 1


def test_an_answer_that_the_context_cut_off():
    with FakeServer(Reply("word " * 99), limits=SMALL) as server, VideoLlava(server.url) as client:
        chat = client.chat()
        answer = chat.ask("What?", max_tokens=90)
        assert (answer.finish_reason, answer.num_output_tokens) == ("length", 37)
        assert (chat.history.max_positions, chat.history.num_positions_left) == (40, 0)


def test_asyncio(bikes):
    async def talk(url):
        async with AsyncVideoLlava(url) as client:
            chat = await client.chat(video=bikes)
            await chat.ask("What?")
            async with chat.stream("Where?") as stream:
                text = "".join([delta.text async for delta in stream])
            assert chat.turns == (("What?", "A cat."), ("Where?", text))
            assert repr(chat).startswith("AsyncChat(2 turns, ")
            chat.clear()
            with pytest.raises(ContextFull, match="the context holds 40"):
                await chat.ask("word " * 40)
            assert (chat.turns, chat.history.max_positions) == ((), 40)

    with FakeServer(Reply("A cat."), Reply("On a mat."), limits=SMALL) as server:
        asyncio.run(talk(server.url))
        prompt = "USER: <video>\nWhat? ASSISTANT: A cat.</s>USER: Where? ASSISTANT:"
        assert server.requests[1].prompt == prompt
