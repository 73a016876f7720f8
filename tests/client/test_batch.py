"""A batch answers each line once, whatever dies in between."""

import json
import random
import subprocess
import sys
import time
from collections import Counter

import pytest
from client.helpers import COMMAND
from typer.testing import CliRunner
from video_llava_client.cli import app
from video_llava_client.testing import FakeServer, Hang, Refuse, Reply


def echo(request):
    return Reply(request.prompt.split()[1], seconds_per_token=0.005)


@pytest.fixture
def server():
    with FakeServer(script=echo, num_threads=40) as running:
        yield running


@pytest.fixture
def source(tmp_path):
    return tmp_path / "in.jsonl"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "out.jsonl"


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(server, *arguments, stdin=None):
    return CliRunner().invoke(app, ["batch", *map(str, arguments), "--url", server.url, "--attempts", "1"], input=stdin)


def numbers(count):
    return [{"id": f"line-{number}", "question": f"{number}?"} for number in range(count)]


def test_a_record_for_each_line(server, source, target):
    write(source, {"question": "one?"}, "", {"id": [7], "question": "two?", "max_tokens": 3, "sampling": {"top_k": 2}})
    result = run(server, source, target, "--ordered", "--temperature", 0.5, "--top-p", 0.9)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "2 answered, 0 failed in " in result.stderr
    first, second = read(target)
    assert (first["line"], first["text"], first["finish_reason"], "id" in first) == (1, "one?", "stop", False)
    assert (second["line"], second["text"], second["id"]) == (3, "two?", [7])
    assert {"num_input_tokens", "num_cached_tokens", "num_output_tokens", "total_seconds"} <= set(first)
    sampling = {request.prompt.split()[1]: request.sampling for request in server.requests}
    assert sampling["one?"] == {"max_tokens": 256, "temperature": 0.5, "top_p": 0.9}
    assert sampling["two?"] == {"max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 2}


def test_a_bad_line_does_not_stop_the_rest(server, source, target, tmp_path, bikes):
    (tmp_path / "text.mp4").write_text("no video")
    write(
        source,
        "{nonsense",
        {"question": "good?", "video": [str(bikes)] * 2},
        [1],
        {"question": "What?", "video": "nothing.mp4"},
        {"question": "What?", "video": str(tmp_path / "text.mp4")},
        {"question": "What?", "videos": "a.mp4"},
        {"question": "What?", "max_tokens": "many"},
        {"question": "What?", "video": [7]},
        {"max_tokens": 3},
    )
    result = run(server, source, target, "--ordered")
    assert result.exit_code == 3
    assert "1 answered, 8 failed" in result.stderr
    assert server.requests[0].num_media == (2, 0)
    records = read(target)
    assert [record["line"] for record in records] == list(range(1, 10))
    errors = [(record["error"]["type"], record["error"]["message"]) for record in records if "error" in record]
    assert [kind for kind, _ in errors[:3]] == ["PromptError", "PromptError", "MediaNotFound"]
    assert "line 6: unknown field 'videos'; known are id, question" in errors[4][1]
    assert "line 7: max_tokens must be int, got 'many'" in errors[5][1]
    assert "exactly one of question and prompt" in errors[7][1]
    assert not any("retry" in record for record in records)


def test_lines_with_a_record_are_not_asked_again(server, source, target):
    write(source, *numbers(6), "{nonsense")
    assert run(server, source, target).exit_code == 3
    before = target.read_text()
    assert len(server.requests) == 6
    result = run(server, source, target)
    assert result.exit_code == 0
    assert "0 answered, 0 failed" in result.stderr
    assert "7 had a record before" in result.stderr
    assert (len(server.requests), target.read_text()) == (6, before)


def test_an_input_may_grow_but_not_change(server, source, target):
    write(source, *numbers(2))
    run(server, source, target)
    write(source, *numbers(5))
    assert run(server, source, target).exit_code == 0
    assert Counter(record["id"] for record in read(target)) == Counter(f"line-{number}" for number in range(5))
    write(source, {"question": "else?"})
    result = run(server, source, target)
    assert result.exit_code == 2
    assert "answers another input: line 1 has changed" in result.stderr


def test_what_failed_for_the_servers_sake_is_asked_again(server, source, target):
    server.then(Refuse("UNAVAILABLE: full"), Refuse("INVALID_ARGUMENT: never"), Reply("Now."))
    write(source, *numbers(3))
    assert run(server, source, target, "--concurrency", 1).exit_code == 3
    assert [record.get("retry", False) for record in read(target)] == [True, False, False]
    result = run(server, source, target, "--ordered")
    assert "1 answered, 0 failed" in result.stderr
    records = read(target)
    assert [record["line"] for record in records] == [1, 2, 3]
    assert [record.get("text") for record in records] == ["Now.", None, "Now."]


def test_a_torn_record_is_asked_again(server, source, target):
    write(source, *numbers(3))
    run(server, source, target, "--ordered")
    target.write_text(target.read_text()[:-20])
    result = run(server, source, target)
    assert "1 answered, 0 failed" in result.stderr
    assert [record["text"] for record in read(target)] == ["0?", "1?", "2?"]


def test_a_file_that_is_something_else_is_left_alone(server, source, target):
    write(source, *numbers(1))
    target.write_text("my diary\n")
    result = run(server, source, target)
    assert (result.exit_code, target.read_text()) == (2, "my diary\n")
    assert "line 1: not a record of a batch" in result.stderr


@pytest.mark.parametrize("where", ["source", "target"])
def test_files_that_cannot_be_used(server, source, target, where, tmp_path):
    write(source, *numbers(1))
    nowhere = tmp_path / "no" / "file"
    result = run(server, *((nowhere, target) if where == "source" else (source, nowhere)))
    assert result.exit_code == 2
    assert f"{nowhere} cannot be" in result.stderr


def test_a_full_disk(server, source, target):
    write(source, *numbers(50))
    arguments = [str(source), str(target), "--url", server.url]
    # No file may grow beyond 512 bytes: what a full disk does, with the signal off that Linux sends in this case.
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512));"
    command = [sys.executable, "-c", limited + COMMAND[2], "batch", *arguments]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (stopped.returncode, stopped.stderr.count("\n")) == (2, 1)
    assert f"{target} cannot be written (File too large): the same command resumes" in stopped.stderr
    assert run(server, source, target).exit_code == 0
    assert sorted(record["id"] for record in read(target)) == sorted(f"line-{number}" for number in range(50))


def test_from_stdin_to_stdout_in_order(server):
    server.then(script=lambda request: Reply(number := request.prompt.split()[1], seconds_per_token=0.5 / int(number)))
    lines = "".join(f'{{"question": "{number}"}}\n' for number in range(1, 9))
    result = run(server, "-", "-", "--ordered", stdin=lines)
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == [str(n) for n in range(1, 9)]
    result = run(server, "-", "-", stdin=lines)
    assert json.loads(result.stdout.splitlines()[0])["text"] != "1"


def test_without_a_server_it_stops(server, source, target):
    write(source, *numbers(300))
    server.stop()
    result = run(server, source, target, "--concurrency", 4)
    assert result.exit_code == 1
    assert "cannot reach" in result.stderr
    assert "stopped, since no server is available" in result.stderr
    assert len(read(target)) < 40
    server.start()
    result = run(server, source, target)
    assert (result.exit_code, len(read(target))) == (0, 300)


def start(server, source, target):
    arguments = [str(source), str(target), "--url", server.url, "--concurrency", "8"]
    return subprocess.Popen(
        [*COMMAND, "batch", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def test_two_at_once_on_one_output(server, source, target):
    server.then(Hang())
    write(source, *numbers(3))
    with start(server, source, target) as process:
        while not server.requests:
            time.sleep(0.02)
        result = run(server, source, target)
        process.kill()
    assert result.exit_code == 2
    assert "is being written by another process" in result.stderr


def test_500_lines_killed_twice_at_random_and_resumed(server, source, target):
    write(source, *numbers(500))
    for _ in range(2):
        begun = len(server.requests)
        with start(server, source, target) as process:
            stop_after = random.randint(20, 150)
            while len(server.requests) < begun + stop_after:
                assert process.poll() is None
                time.sleep(0.002)
            process.kill()
    result = run(server, source, target, "--ordered")
    assert result.exit_code == 0
    records = read(target)
    assert [record["text"] for record in records] == [f"{number}?" for number in range(500)]
    asked = Counter(request.prompt for request in server.requests)
    # What was under way when it was killed, eight lines at most each time, had no answer yet.
    assert len(server.requests) <= 500 + 2 * 8
    assert set(asked.values()) <= {1, 2, 3}
