"""A batch answers each line once, whatever dies in between."""

import json
import random
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from client.helpers import COMMAND
from typer.testing import CliRunner
from video_llava_client.batch import Line, OutputFile
from video_llava_client.batch.runner import MAX_INTERRUPTIONS
from video_llava_client.cli import app
from video_llava_client.testing import BreakOff, FakeServer, Hang, Refuse, Reply


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


def run(server, *arguments):
    return CliRunner().invoke(app, ["batch", *map(str, arguments), "--url", server.url, "--attempts", "1"])


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


def test_what_failed_for_the_servers_sake_is_asked_again(server, source, target):
    server.then(Refuse("INTERNAL: broken"), Refuse("INVALID_ARGUMENT: never"), Reply("Now."))
    write(source, *numbers(3))
    assert run(server, source, target, "--concurrency", 1).exit_code == 3
    assert [record.get("retry", False) for record in read(target)] == [True, False, False]
    result = run(server, source, target, "--ordered")
    assert "1 answered, 0 failed" in result.stderr
    records = read(target)
    assert [record["line"] for record in records] == [1, 2, 3]
    assert [record.get("text") for record in records] == ["Now.", None, "Now."]


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


def test_the_file_is_whole_wherever_its_writer_was_stopped(tmp_path):
    """A record is written from its first byte on; the cut may be inside a character."""
    lines = [Line(number, number - 1, b"{}") for number in (1, 2)]
    with OutputFile(tmp_path / "whole") as output:
        for line in lines:
            output.write(line, {"id": "ü\ud83d", "text": "日本語🎬"})
    whole = (tmp_path / "whole").read_bytes()
    first, second = whole.splitlines(keepends=True)
    assert [json.loads(record)["id"] for record in (first, second)] == ["ü\ud83d"] * 2
    for num_bytes in range(len(whole)):
        path = tmp_path / f"cut-{num_bytes}"
        path.write_bytes(whole[:num_bytes] + b"\0" * (num_bytes % 3))
        with OutputFile(path) as output:
            assert [output.knows(line) for line in lines] == [num_bytes >= len(first), False]
        assert path.read_bytes() == (first if num_bytes >= len(first) else b"")


def limited(num_bytes, *arguments):
    """Run a batch whose files may not grow beyond `num_bytes`, as on a full disk."""
    # The signal is off that Linux sends in this case, and no full disk does.
    code = f"import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); limit = {num_bytes};"
    code += "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit));"
    command = [sys.executable, "-c", code + COMMAND[2], "batch", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def accounts(result):
    """Return how many lines were answered, failed, are left and had a record before, by the summary."""
    found = [re.search(rf"(\d+) {what}", result.stderr) for what in ("answered,", "failed", "not answered", "had a")]
    return tuple(int(number[1]) if number else 0 for number in found)


def test_a_full_disk(server, source, target):
    server.then(Reply("日本語"))
    write(source, *numbers(50))
    stopped = limited(600, source, target, "--url", server.url)
    assert stopped.returncode == 1
    assert stopped.stderr.endswith(f"video-llava: {target} cannot be written (File too large)\n")
    num_answered = len(read(target))
    assert accounts(stopped) == (num_answered, 0, 50 - num_answered, 0)
    assert accounts(run(server, source, target)) == (50 - num_answered, 0, 0, num_answered)
    assert sorted(record["line"] for record in read(target)) == list(range(1, 51))


def test_2000_lines_through_a_full_and_restarting_server_and_a_full_disk(source, target):
    """Each line ends in exactly one record, and each summary accounts for all."""
    room, ended = threading.Semaphore(4), threading.Event()

    def answer(request):
        if not room.acquire(blocking=False):
            return Refuse("UNAVAILABLE: 4 requests are in flight: try again, reason=full, retry_after_seconds=0.1")
        try:
            time.sleep(0.002)
            return Reply(request.prompt.split()[1])
        finally:
            room.release()

    def restart():
        for num_requests in (400, 1200, 2000):
            while len(server.requests) < num_requests and not ended.wait(0.01):
                pass
            server.stop()
            ended.wait(0.5)
            server.start()

    write(source, *numbers(2000))
    with FakeServer(script=answer, num_threads=40) as server:
        restarting = threading.Thread(target=restart)
        restarting.start()
        arguments = (source, target, "--url", server.url, "--concurrency", 16, "--patience", 30)
        results = [limited(num_bytes, *arguments) for num_bytes in (100_000, 250_000, 10_000_000)]
        ended.set()
        restarting.join(20)
    assert [result.returncode for result in results] == [1, 1, 0]
    assert [sum(accounts(result)) for result in results] == [2000] * 3
    assert accounts(results[-1])[1:3] == (0, 0)
    records = read(target)
    assert sorted(record["line"] for record in records) == list(range(1, 2001))
    assert all(record["text"] == f"{record['line'] - 1}?" for record in records)
    assert sum(accounts(result)[0] for result in results) == 2000


def test_a_removed_output_is_noticed(server, source, target):
    server.then(script=lambda request: target.unlink(missing_ok=True) or Reply(request.prompt.split()[1]))
    write(source, *numbers(20))
    result = run(server, source, target, "--concurrency", 1)
    assert (result.exit_code, accounts(result)) == (1, (0, 0, 20, 0))
    assert f"{target} cannot be written (it was removed or replaced)" in result.stderr
    server.then(script=echo)
    assert accounts(run(server, source, target)) == (20, 0, 0, 0)


def test_every_line_that_is_not_empty_gets_one_record(server, source, target):
    lines = [
        b'\xef\xbb\xbf{"id": "a", "question": "BOM?"}\r\n',
        b"\r\n",
        b'{"id": "a", "question": "\xff"}\n',
        b'{"id": "\\ud83d", "question": "id?"}\n',
        b'{"question": "\\udcff?"}\n',
        b'{"question": "name?", "video": "\\udcff.mp4"}\n',
        b'{"id": NaN, "question": "NaN?"}\n',
        b'{"id": 1e400, "question": "huge?"}\n',
        b'{"id": ' + b"[" * 500 + b"]" * 500 + b', "question": "deep?"}\n',
        b"[" * 100_000 + b"\n",
        b'{"question": "' + b"x" * 10_000_000 + b'"}\n',
        b"  \n",
        b'{"id": "a", "question": "end?"}',
    ]
    source.write_bytes(b"".join(lines))
    result = run(server, source, target, "--ordered")
    assert (result.exit_code, accounts(result)) == (3, (4, 7, 0, 0))
    records = read(target)
    assert [record["line"] for record in records] == [1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]
    by_line = {record["line"]: record for record in records}
    assert (by_line[1]["text"], by_line[13]["text"], by_line[4]["id"]) == ("BOM?", "end?", "\ud83d")
    assert "invalid start byte" in by_line[3]["error"]["message"]
    assert by_line[6]["error"]["type"] == "MediaNotFound"
    assert "id is nested in more than 20 levels" in by_line[9]["error"]["message"]
    before = target.read_bytes()
    assert (run(server, source, target).exit_code, target.read_bytes()) == (0, before)


def test_an_input_may_grow_but_not_change(server, source, target):
    write(source, *numbers(2))
    source.write_text(source.read_text() + '{"id": "line-2", "ques')  # its writer is not done
    assert accounts(run(server, source, target)) == (2, 1, 0, 0)
    write(source, *numbers(5))
    assert accounts(run(server, source, target)) == (3, 0, 0, 2)
    assert Counter(record["id"] for record in read(target)) == Counter(f"line-{number}" for number in range(5))
    num_asked = len(server.requests)
    for lines, what in (
        (numbers(4), "1 of its records are of lines that are gone"),
        ([*numbers(4), {"question": "else?"}], "line 5 has changed"),
    ):
        write(source, *lines)
        result = run(server, source, target)
        assert result.exit_code == 2
        assert f"answers another input: {what}" in result.stderr
    assert len(server.requests) == num_asked


def test_other_options_than_those_of_the_records_are_refused(server, source, target):
    write(source, *numbers(2))
    assert run(server, source, target, "--max-tokens", 5, "--top-k", 3, "--ordered").exit_code == 0
    write(source, *numbers(3))
    result = run(server, source, target, "--max-tokens", 6, "--seed", 1)
    assert (result.exit_code, len(server.requests)) == (2, 2)
    assert "has records with other options (max_tokens 5 -> 6, seed None -> 1, top_k 3 -> None)" in result.stderr
    assert run(server, source, target, "--max-tokens", 5, "--top-k", 3, "--concurrency", 2).exit_code == 0
    (kept,) = target.parent.glob("out.jsonl.*")
    assert json.loads(kept.read_text()) == {"model": "video_llava", "max_tokens": 5, "temperature": 0.0, "top_k": 3}
    kept.unlink()
    write(source, *numbers(4))
    assert run(server, source, target, "--max-tokens", 6).exit_code == 0


def test_a_sorted_file_stays_what_it_was(server, source, target, tmp_path):
    """A symbolic link, and readable for its owner only."""
    server.then(
        script=lambda request: Reply(request.prompt.split()[1], seconds_per_token=0.1 * (request.num_words % 2))
    )
    write(source, *({"question": "a" if number % 2 else "a b"} for number in range(6)))
    real = tmp_path / "elsewhere"
    real.touch(mode=0o600)
    target.symlink_to(real)
    assert run(server, source, target, "--ordered").exit_code == 0
    assert [record["line"] for record in read(target)] == [1, 2, 3, 4, 5, 6]
    assert target.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "elsewhere",
        "elsewhere.options.json",
        "in.jsonl",
        "out.jsonl",
    ]


def pipe(server, *arguments):
    """Start a batch from a pipe to a pipe."""
    command = [*COMMAND, "batch", "-", "-", "--url", server.url, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_from_stdin_to_stdout_in_order(server):
    server.then(script=lambda request: Reply(number := request.prompt.split()[1], seconds_per_token=0.5 / int(number)))
    lines = "".join(f'{{"question": "{number}"}}\n' for number in range(1, 9)).encode()
    with pipe(server, "--ordered") as process:
        stdout, _ = process.communicate(lines, timeout=60)
    assert [json.loads(line)["text"] for line in stdout.splitlines()] == [str(n) for n in range(1, 9)]
    with pipe(server) as process:
        stdout, _ = process.communicate(lines, timeout=60)
    assert json.loads(stdout.splitlines()[0])["text"] != "1"


def test_a_line_is_asked_as_soon_as_it_comes(server):
    with pipe(server) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        too_late = threading.Timer(60, process.kill)
        too_late.start()
        for number in range(2):
            process.stdin.write(b'{"question": "%d"}\n' % number)
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == str(number)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        too_late.cancel()
        assert b"2 answered, 0 failed in" in process.stderr.read()


def test_a_server_that_comes_back_is_waited_for(server, source, target):
    write(source, *numbers(100))
    server.stop()
    threading.Timer(1.0, server.start).start()
    result = run(server, source, target, "--concurrency", 4)
    assert (result.exit_code, accounts(result)) == (0, (100, 0, 0, 0))
    assert result.stderr.count("asking again for 600 s") == 1


def test_without_a_server_it_stops_and_says_what_is_left(server, source, target):
    write(source, *numbers(300))
    run(server, source, target, "--concurrency", 4)
    write(source, *numbers(400))
    server.stop()
    result = run(server, source, target, "--concurrency", 4, "--patience", 0.5)
    assert (result.exit_code, accounts(result)) == (1, (0, 0, 100, 300))
    assert "not answered (the same command resumes)" in result.stderr
    assert "cannot reach" in result.stderr.splitlines()[-1]
    server.start()
    assert accounts(run(server, source, target)) == (100, 0, 0, 300)


def test_a_full_server_gets_fewer_lines_at_a_time(server, source, target):
    """It loses patience only when nothing at all is answered."""
    refused, asking = [], Counter()

    def answer(request):
        asking["now"] += 1
        if asking["now"] > 4:
            asking["now"] -= 1
            refused.append(request)
            return Refuse("UNAVAILABLE: full: try again, reason=full, retry_after_seconds=0.1")
        time.sleep(0.02)
        asking["now"] -= 1
        return Reply(request.prompt.split()[1])

    server.then(script=answer)
    write(source, *numbers(200))
    result = run(server, source, target, "--concurrency", 32, "--patience", 5)
    assert (result.exit_code, accounts(result), "asking again" in result.stderr) == (0, (200, 0, 0, 0), False)
    assert len(refused) < 200


def test_a_line_that_the_server_dies_of_fails_alone(server, source, target):
    server.then(script=lambda request: BreakOff() if "1?" in request.prompt else echo(request))
    write(source, *numbers(4))
    result = run(server, source, target, "--ordered")
    assert (result.exit_code, accounts(result)) == (3, (3, 1, 0, 0))
    assert read(target)[1]["error"]["type"] == "InterruptedStream"
    assert len(server.requests) == 3 + MAX_INTERRUPTIONS


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
