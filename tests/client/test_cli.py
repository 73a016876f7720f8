"""The command line: answers to stdout, all else to stderr, and an exit code."""

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import time
from dataclasses import replace

import grpc
import numpy as np
import pytest
from click.testing import CliRunner
from client.helpers import CAT, COMMAND, SMALL
from PIL import Image
from support.certificates import Authority
from video_llava_client.cli import app
from video_llava_client.testing import FakeServer, Hang, Refuse, Reply
from video_llava_client.testing.server import LIMITS

WITH_ADAPTERS = replace(LIMITS, lora_names=("red", "blue"))


@pytest.fixture
def server():
    with FakeServer(Reply("A cat."), Reply("On a mat.")) as running:
        yield running


def run(server, *arguments, **options):
    url = server if isinstance(server, str) else server.url
    return CliRunner().invoke(app, [*map(str, arguments), "--url", url], **options)


# All commands


@pytest.mark.parametrize(
    "command", [(), ("ask",), ("chat",), ("batch",), ("evaluate",), ("frames",), ("probe",), ("info",)]
)
def test_the_help_documents_the_exit_codes(command):
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert {"0 answered", "1 the server, the connection or the output failed", "2 bad input", "130 interrupted"} <= set(
        lines
    )


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        (("--top-p", 0.9, "--top-k", 5, "--seed", 7), {"top_p": 0.9, "top_k": 5, "seed": 7}),
        (("--stop", "a", "--stop", "b"), {"stop": ["a", "b"]}),
        (("--choice", "yes", "--choice", "no"), {"structured_outputs": {"choice": ["yes", "no"]}}),
        (("--json-schema", '{"type": "object"}'), {"structured_outputs": {"json": {"type": "object"}}}),
        (("--regex", "[0-9]+"), {"structured_outputs": {"regex": "[0-9]+"}}),
        (("--grammar", 'root ::= "a"'), {"structured_outputs": {"grammar": 'root ::= "a"'}}),
        (("--sampling", '{"min_p": 0.1, "top_k": 3}', "--top-k", 5), {"min_p": 0.1, "top_k": 3}),
        (("--lora", "red"), {"lora_name": "red"}),
    ],
)
def test_sampling(options, sampling):
    with FakeServer(limits=WITH_ADAPTERS) as server:
        assert run(server, "ask", "What?", *options).exit_code == 0
    assert server.requests[0].sampling == {"max_tokens": 256, "temperature": 0.0, **sampling}


def test_adapters_are_among_the_facts_and_a_conversation_can_have_one():
    with FakeServer(limits=WITH_ADAPTERS) as server:
        assert run(server, "info").stdout.splitlines()[-1] == "adapters red, blue"
        assert run(server, "chat", "--lora", "blue", input="What?\nWhere?\n").exit_code == 0
        assert [request.sampling["lora_name"] for request in server.requests] == ["blue", "blue"]
        result = run(server, "ask", "What?", "--lora", "nobody")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "lora_name is 'nobody', there is no such adapter: the server has red, blue" in result.stderr


def test_a_schema_from_a_file(server, tmp_path):
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array"}')
    run(server, "ask", "What?", "--json-schema", schema)
    assert server.requests[0].sampling["structured_outputs"] == {"json": {"type": "array"}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--choice", "a", "--regex", "b"), "exclude each other: give one of them"),
        (("--json-schema", "{"), "--json-schema is neither JSON nor a file"),
        (("--sampling", "[1]"), "--sampling must be a JSON object, got '[1]'"),
        (("--header", "x"), "--header takes NAME=VALUE, got 'x'"),
        (("--tls-cert", "a.pem"), "mutual TLS needs both"),
        (("--tls-ca", "no.pem"), "cannot read root_certificates 'no.pem'"),
        (("--attempts", 0), "num_attempts must be at least 1"),
        (("--start", 1), "start_seconds and end_seconds need a video"),
        (("--max-tokens", "0"), "video-llava: max_tokens must be at least 1, got 0\n"),
        (("--url", "http://host:1"), "video-llava: url must be host:port without a scheme"),
    ],
)
def test_options_that_cannot_be_used(server, options, message):
    result = CliRunner().invoke(app, ["ask", "What?", "--url", server.url, *map(str, options)])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert message in result.stderr


def test_mutual_tls(tmp_path):
    authority = Authority("ours")
    server_side, client_side = authority.sign("localhost"), authority.sign("client")
    files = {"ca": authority.certificate, "cert": client_side.certificate, "key": client_side.key}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    options = [word for name in files for word in (f"--tls-{name}", tmp_path / name)]
    credentials = grpc.ssl_server_credentials([(server_side.key, server_side.certificate)], authority.certificate, True)
    with FakeServer(credentials=credentials) as server:
        assert run(server, "probe", *options, "--tls-name", "localhost").exit_code == 0
        assert run(server, "probe", *options[:2], "--attempts", 1).exit_code == 1


# ask


def test_the_answer_goes_to_stdout_and_stages_to_stderr(server, bikes):
    server.then(CAT)
    result = run(server, "ask", bikes, "What is this?")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "The cat jümps.\n", "")
    assert server.requests[0].prompt == "USER: <video>\nWhat is this? ASSISTANT:"
    result = run(server, "ask", bikes, "What is this?", "--stages")
    assert result.stdout == "The cat jümps.\n"
    assert "encode          0.250 s" in result.stderr
    assert "tokens: 2063 in (2048 cached), 3 out, finish_reason stop" in result.stderr
    assert f"frames of {bikes}: 0 (0.00 s), 31 (1.24 s)" in result.stderr


def test_options(server):
    options = ("--no-stream", "--max-tokens", 5, "--temperature", 0.5, "--timeout", 3)
    result = run(server, "ask", "Hello?", *options, "--header", "X-Team=a=b", "--token", "secret")
    assert (result.exit_code, result.stdout) == (0, "A cat.\n")
    (request,) = server.requests
    assert request.sampling == {"max_tokens": 5, "temperature": 0.5}
    assert request.seconds_left < 4
    assert (request.metadata["x-team"], request.metadata["authorization"]) == ("a=b", "Bearer secret")


def test_url_and_token_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("VIDEO_LLAVA_URL", server.url)
    monkeypatch.setenv("VIDEO_LLAVA_TOKEN", "secret")
    assert CliRunner().invoke(app, ["ask", "Hello?"]).exit_code == 0
    assert server.requests[0].metadata["authorization"] == "Bearer secret"


def test_images_and_videos_are_told_apart(server, bikes, tmp_path):
    photo = tmp_path / "photo"
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(photo, format="PNG")
    assert run(server, "ask", bikes, photo, "What differs?").exit_code == 0
    assert server.requests[0].prompt == "USER: <image>\n<video>\nWhat differs? ASSISTANT:"


def test_json_of_a_part_of_a_video(server, bikes):
    server.then(CAT)
    answer = json.loads(run(server, "ask", bikes, "What?", "--json", "--start", 2, "--end", 4).stdout)
    assert (answer["text"], answer["finish_reason"]) == ("The cat jümps.", "stop")
    assert answer["stage_seconds"]["encode"] == 0.25
    assert (answer["frames"][0]["indices"][0], answer["frames"][0]["pts_seconds"][0]) == (50, 2.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing.mp4", "What?"), "video-llava: nothing.mp4: no such file or directory: check the name\n"),
        ((" ",), "video-llava: the question is empty\n"),
        ((__file__,), f"video-llava: the last argument, {__file__}, is a file: write the question after it\n"),
        (
            ("s3://a/b.mp4",),
            "video-llava: the last argument, s3://a/b.mp4, is an address: write the question after it\n",
        ),
    ],
)
def test_bad_input_is_one_line_and_code_2(server, arguments, message):
    result = run(server, "ask", *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_a_question_longer_than_a_files_name(server):
    assert run(server, "ask", "Why? " * 200).exit_code == 0


@pytest.mark.parametrize("command", [("ask", "What?"), ("probe",)])
def test_a_failure_of_the_server_is_code_1(server, command):
    server.then(Refuse("INTERNAL: the engine died"))
    result = run(server, *command)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "video-llava: the engine died\n")


@pytest.mark.parametrize("command", [("ask", "What?"), ("probe",), ("info",)])
def test_no_server_is_code_1(command):
    result = run("127.0.0.1:1", *command, "--attempts", 1)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("video-llava: cannot reach 127.0.0.1:1")


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_a_proxy_that_grpc_uses_is_named(variable):
    """Whoever sets one for a browser does not think of gRPC."""
    environment = {**os.environ, variable: "http://user:secret@127.0.0.1:2"}
    result = shell("ask What? --url 127.0.0.1:1 --attempts 1", env=environment)
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert "127.0.0.1:2: Failed to connect" in result.stderr
    assert result.stderr.endswith(f"; gRPC connects through the proxy in {variable}, unless no_proxy has this host\n")
    assert "secret" not in result.stderr


def shell(line, *, before="", **options):
    """Run a command line of `video-llava` in bash; `before` is what precedes it."""
    command = f"set -o pipefail; {before} {shlex.join(COMMAND)} {line}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, **options)


def test_media_from_pipes(server, bikes, tmp_path):
    photo = tmp_path / "photo"
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(photo, format="PNG")
    result = shell(f"ask <(cat {bikes}) <(cat {photo}) 'What?' --stages --url {server.url}")
    assert (result.returncode, result.stdout) == (0, "A cat.\n")
    assert "0 (0.00 s), 31 (1.24 s)" in result.stderr
    assert server.requests[0].num_media == (1, 1)
    result = shell(f"ask <(cat {bikes}) --url {server.url}")
    assert (result.returncode, result.stdout) == (2, "")
    assert "is a file: write the question after it" in result.stderr


@pytest.mark.parametrize(
    "command", ["ask What?", "ask What? --json", "info", "chat <<< 'What?'", "batch <(cat in) -", "ask --help"]
)
def test_an_output_that_cannot_be_written(server, command, tmp_path):
    (tmp_path / "in").write_text('{"question": "What?"}\n')
    server.then(Reply("word " * 100))
    url = "" if "help" in command else f"--url {server.url}"
    result = shell(f"{command} {url} > /dev/full", cwd=tmp_path)
    assert (result.returncode, errors_of(result)) == (1, ["video-llava: cannot write (No space left on device)"])


def errors_of(result):
    return [line for line in result.stderr.splitlines() if " answered" not in line]  # the summary of a batch


@pytest.mark.parametrize("command", ["ask What?", "ask What? --json", "info", "batch <(cat in) -"])
def test_a_reader_that_has_ended(server, command, tmp_path):
    (tmp_path / "in").write_text('{"question": "What?"}\n')
    result = shell(f"{command} --url {server.url} | true; exit ${{PIPESTATUS[0]}}", cwd=tmp_path)
    assert (result.returncode, errors_of(result)) == (141, [])


def test_names_with_any_bytes(server, bikes, tmp_path):
    name = tmp_path / os.fsdecode(b"\xff.mp4")
    name.symlink_to(bikes)
    for command in (["ask", name, "What?", "--json", "--url", server.url], ["frames", name]):
        result = subprocess.run([*COMMAND, *command], capture_output=True, timeout=60, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, b"")
        assert b"/\\udcff" in result.stdout


def test_ctrl_c_cancels(server):
    server.then(Hang(after_tokens=2, reply=Reply("One two three.")))
    command = [*COMMAND, "ask", "--url", server.url, "Count!"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read(7) == "One two"
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout, stderr) == (130, "\n", "video-llava: interrupted\n")
    assert server.requests[0].cancelled.wait(5)


# probe, info


def test_probe(server):
    result = run(server, "probe")
    assert result.exit_code == 0
    assert re.fullmatch(rf"{server.url} works: a token after \d+\.\d{{3}} s\n", result.stdout)
    facts = json.loads(run(server, "probe", "--media", "--json").stdout)
    assert (facts["url"], facts["text"]) == (server.url, "On")
    assert [request.num_media for request in server.requests] == [(0, 0), (1, 0)]


def test_info(server):
    lines = run(server, "info").stdout.splitlines()
    assert lines[0] == f"server   {server.url}, Triton fake"
    assert "         vicuna 1 READY" in lines
    assert lines[-3:] == [
        "frames   56 x 56 pixels, 8 a video",
        "tokens   136 a video, 16 an image",
        "context  4096 tokens, media, text and answer together",
    ]
    assert json.loads(run(server, "info", "--json").stdout)["limits"]["max_model_len"] == 4096


# frames


def test_frames(bikes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["frames", str(bikes), "--size", "64"])
    assert result.exit_code == 0
    assert "31 (1.24 s), 62 (2.48 s)" in result.stdout
    assert result.stdout.endswith("written to bikes.frames.png\n")
    with Image.open(tmp_path / "bikes.frames.png") as sheet:
        assert sheet.width > 4 * 64


def test_frames_of_a_part_as_json(bikes, tmp_path):
    sheet = tmp_path / "sheet.jpg"
    result = CliRunner().invoke(app, ["frames", str(bikes), "-o", str(sheet), "--start", "2", "--end", "4", "--json"])
    facts = json.loads(result.stdout)
    assert (facts["output"], facts["indices"][0], facts["pts_seconds"][0]) == (str(sheet), 50, 2.0)
    assert sheet.stat().st_size > 1000


@pytest.mark.parametrize("name", ["sheet.nothing", "no/sheet.png"])
def test_frames_that_cannot_be_written(bikes, tmp_path, name):
    result = CliRunner().invoke(app, ["frames", str(bikes), "-o", str(tmp_path / name)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "cannot be written" in result.stderr


def test_frames_of_no_video(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    result = CliRunner().invoke(app, ["frames", str(tmp_path / "text.mp4")])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


# chat


def test_a_conversation_from_a_pipe(server, bikes):
    result = run(server, "chat", bikes, "--max-tokens", 9, input="What?\n\nWhere?\n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "A cat.\nOn a mat.\n", "")
    assert server.requests[1].prompt == "USER: <video>\nWhat? ASSISTANT: A cat.</s>USER: Where? ASSISTANT:"


def test_a_conversation_from_a_pipe_ends_with_its_first_error(server):
    server.then(Reply("A cat."), Refuse("INTERNAL: broken"))
    result = run(server, "chat", input="What?\nWhere?\nWhy?\n")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "A cat.\n", "video-llava: broken\n")


class Terminal:
    """A `video-llava chat` on a terminal of its own."""

    def __init__(self, server, *arguments):
        self._leader, follower = pty.openpty()
        command = [*COMMAND, "chat", "--url", server.url, *map(str, arguments)]
        self._process = subprocess.Popen(
            command,
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "dumb"},
            start_new_session=True,
        )
        os.close(follower)
        self._shown = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._leader)

    def say(self, text):
        """Type, when the program asks for it."""
        self.wait_for("> ")
        os.write(self._leader, text.encode())

    def interrupt(self):
        self._process.send_signal(signal.SIGINT)

    def wait_for(self, text):
        deadline = time.monotonic() + 20
        while text not in self._shown:
            readable, _, _ = select.select([self._leader], [], [], max(0, deadline - time.monotonic()))
            assert readable, f"no {text!r} after {self._shown!r}"
            try:
                self._shown += os.read(self._leader, 4096).decode()
            except OSError as exc:  # the program has ended
                raise AssertionError(f"no {text!r} at the end of {self._shown!r}") from exc
        before, _, self._shown = self._shown.partition(text)
        return before

    def wait(self):
        return self._process.wait(20)


def test_a_conversation_on_a_terminal(server):
    with Terminal(server) as terminal:
        terminal.say("What?\n")
        terminal.wait_for("A cat.")
        terminal.say("/nonsense\n")
        terminal.wait_for("no such command: /nonsense")
        terminal.say("/history\n")
        terminal.wait_for("> What?\r\nA cat.")
        terminal.say("/clear\n")
        terminal.say("Where?\n")
        terminal.wait_for("On a mat.")
        terminal.say("\x04")
        assert terminal.wait() == 0
    assert server.requests[1].prompt == "USER: Where? ASSISTANT:"


def test_an_interrupt_stops_the_answer_and_not_the_program(server):
    server.then(Hang(after_tokens=2, reply=Reply("One two three.")), Reply("A cat."))
    with Terminal(server) as terminal:
        terminal.say("Count!\n")
        terminal.wait_for("One two")
        terminal.interrupt()
        terminal.wait_for("stopped; this turn does not count")
        assert server.requests[0].cancelled.wait(5)
        terminal.wait_for("> ")
        # Python's input() does not notice what comes between its prompt and its wait for a key.
        time.sleep(0.5)
        terminal.interrupt()  # at the prompt it ends nothing
        terminal.say("What?\n")
        terminal.wait_for("A cat.")
        terminal.say("/quit\n")
        assert terminal.wait() == 0
    assert server.requests[1].prompt == "USER: What? ASSISTANT:"


def test_a_full_context_on_a_terminal():
    with FakeServer(Reply("word " * 30), limits=SMALL) as server, Terminal(server) as terminal:
        terminal.say("Go!\n")
        terminal.say("one two three four five six seven eight\n")
        terminal.wait_for("the context holds 40 with the answer")
        terminal.wait_for("/clear begins the conversation again")
        terminal.say("\x04")
        assert terminal.wait() == 0
