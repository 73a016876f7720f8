"""The fake server speaks the protocol as Triton's own client does, and refuses what the real server refuses."""

import re
import subprocess
import sys

import numpy as np
import pytest
from support.triton import flag, stream, strings
from video_llava_client import ContextFull, InvalidRequest, VideoLlava
from video_llava_client.testing import Refuse, Reply

PROMPT = "USER: Hello? ASSISTANT:"
RETURNS = {f"return_{name}": flag(True) for name in ("finish_reason", "num_input_tokens", "num_output_tokens")}


def tensors(**more):
    return {"text_input": strings(PROMPT), "sampling_parameters": strings('{"max_tokens": 20}'), **RETURNS, **more}


def test_tritons_own_client_reads_a_stream_and_a_whole_answer(server):
    streamed = stream(server.url, "video_llava", tensors(stream=flag(True)))
    assert (streamed.text, streamed.num_final) == (" This is a fake answer.", 1)
    assert [output["finish_reason"][0] for output in streamed.outputs] == [b"None"] * 4 + [b"stop"]
    assert streamed.outputs[0]["num_input_tokens"].tolist() == [3]
    whole = stream(server.url, "video_llava", tensors())
    assert (whole.text, whole.num_final, len(whole.outputs)) == (" This is a fake answer.", 1, 1)
    assert whole.outputs[0]["num_output_tokens"].tolist() == [5]


def test_what_was_asked_is_kept(server):
    frames = np.arange(8 * 56 * 56 * 3, dtype=np.uint8).reshape(8, 56, 56, 3)
    stream(
        server.url, "video_llava", tensors(text_input=strings(f"USER: <video>\nWhat? {PROMPT}"), video_frames=frames)
    )
    (request,) = server.requests
    assert request.prompt == f"USER: <video>\nWhat? {PROMPT}"
    assert np.array_equal(request.video_frames, frames)
    assert (request.sampling, request.stream, request.num_media) == ({"max_tokens": 20}, False, (1, 0))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"text_input": strings(" ")}, "text_input is empty"),
        ({"text_input": strings("<video>")}, r"has 1 <video> placeholder\(s\) and the request has 0 video\(s\)"),
        ({"image_frames": np.zeros((1, 9, 9, 3), np.uint8)}, r"image_frames is \[1, 9, 9, 3\], expected"),
        ({"text_input": strings("word " * 5000)}, "takes 5000 positions .* the context holds 4096"),
    ],
)
def test_what_the_real_server_refuses(server, more, message):
    refused = stream(server.url, "video_llava", tensors(**more))
    assert re.search(f"^INVALID_ARGUMENT: .*{message}", refused.error)


def test_steps_and_scripts(server, client):
    server.then(Reply("One."), Reply("Two."))
    assert [client.ask("Which?").text for _ in range(3)] == ["One.", "Two.", "Two."]
    server.then(script=lambda request: Reply(request.prompt.split()[1]) if request.stream else Refuse("INTERNAL: no"))
    assert client.ask("Parrot!").text == "Parrot!"
    server.then(Reply())
    answer = client.ask("Hello?", max_tokens=2)
    assert (answer.text, answer.finish_reason, answer.num_output_tokens) == ("This is", "length", 2)


def test_it_stops_and_starts_on_the_same_port(server):
    url = server.url
    server.stop()
    server.start()
    assert server.url == url
    with VideoLlava(url) as client:
        assert client.ask("Hello?").text == "This is a fake answer."


def test_a_full_context(client):
    with pytest.raises(ContextFull, match="takes 5002 positions") as caught:
        client.ask("word " * 5000)
    assert (caught.value.num_positions, caught.value.max_positions) == (5002, 4096)
    assert isinstance(caught.value, InvalidRequest)


def test_the_command_runs_one():
    command = [sys.executable, "-m", "video_llava_client.testing", "--text", "From afar."]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with VideoLlava(process.stdout.readline().strip()) as client:
                assert client.ask("Who?").text == "From afar."
        finally:
            process.kill()
