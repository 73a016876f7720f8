"""The command line: the answer to stdout, all else to stderr, and an exit code."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner
from video_llava_client.cli import app


@pytest.fixture
def run(triton, monkeypatch):
    monkeypatch.setenv("VIDEO_LLAVA_URL", triton.url)
    return lambda *arguments: CliRunner().invoke(app, ["ask", *map(str, arguments)])


def test_the_answer_goes_to_stdout_as_it_comes(run, triton, bikes):
    result = run(bikes, "What is this?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "The cat jümps.\n", "")
    assert triton.inputs[0]["stream"] is True
    assert triton.inputs[0]["text_input"] == "USER: <video>\nWhat is this? ASSISTANT:"


def test_options(run, triton):
    result = run("Hello?", "--no-stream", "--max-tokens", 5, "--temperature", 0.5, "--timeout", 3)
    assert (result.exit_code, result.stdout) == (0, "The cat jümps.\n")
    assert triton.inputs[0]["sampling_parameters"] == '{"max_tokens": 5, "temperature": 0.5}'
    assert triton.seconds_left[0] < 4


def test_images_and_videos_are_told_apart(run, triton, bikes, tmp_path):
    photo = tmp_path / "photo"
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(photo, format="PNG")
    assert run(bikes, photo, "What differs?").exit_code == 0
    assert triton.inputs[0]["text_input"] == "USER: <image>\n<video>\nWhat differs? ASSISTANT:"


def test_json(run, bikes):
    answer = json.loads(run(bikes, "What is this?", "--json").stdout)
    assert (answer["text"], answer["finish_reason"]) == ("The cat jümps.", "stop")
    assert answer["stage_seconds"]["encode"] == 0.25
    assert answer["frames"][0]["indices"][-1] == 218


def test_stages_go_to_stderr(run, bikes):
    result = run(bikes, "What is this?", "--stages")
    assert result.stdout == "The cat jümps.\n"
    assert "encode          0.250 s" in result.stderr
    assert "tokens: 2063 in (2048 cached), 3 out, finish_reason stop" in result.stderr
    assert f"frames of {bikes}: 0 (0.00 s), 31 (1.24 s)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.mp4", "What?"), "video-llava: nothing.mp4: no such file or directory: check the name\n"),
        ((" ",), "video-llava: the question is empty\n"),
        (("What?", "--max-tokens", "0"), "video-llava: max_tokens must be at least 1, got 0\n"),
        (("What?", "--url", "http://host:1"), "video-llava: url must be host:port without a scheme"),
    ],
)
def test_bad_input_is_one_line_and_code_2(run, arguments, message):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(message)
    assert result.stderr.count("\n") == 1


def test_a_forgotten_question(run, bikes):
    result = run(bikes)
    assert result.exit_code == 2
    assert "is a file: write the question after it" in result.stderr


def test_a_question_longer_than_a_files_name(run):
    assert run("Why? " * 200).exit_code == 0


def test_no_arguments_show_how_it_is_used():
    result = CliRunner().invoke(app, ["ask"])
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_a_refusal_of_the_server_is_code_1(run, triton, send):
    triton.script = lambda *_: iter([send.error("UNAVAILABLE: full: try later")])
    result = run("What?")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "video-llava: full: try later\n")


def test_no_server_is_code_1(run):
    result = run("What?", "--url", "127.0.0.1:1")
    assert result.exit_code == 1
    assert result.stderr.startswith("video-llava: cannot reach 127.0.0.1:1")
    assert result.stderr.count("\n") == 1


def start(url, *arguments):
    # A shell that runs the tests in the background lets all of them ignore the interrupt. (Not by `preexec_fn`, which
    # makes Popen fork, and gRPC's threads do not stand a fork.)
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "from video_llava_client.cli import main; main()"
    command = [sys.executable, "-c", code, "ask", "--url", url, *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_ctrl_c_cancels(triton, send):
    def endless(_inputs, _request, context):
        while context.is_active():
            yield send.delta("a", 1)
            time.sleep(0.01)

    triton.script = endless
    with start(triton.url, "What?") as process:
        assert process.stdout is not None
        assert process.stdout.read(3) == "aaa"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert (stdout.strip("a"), stderr) == ("\n", "video-llava: interrupted\n")
    assert triton.cancelled.wait(5)
