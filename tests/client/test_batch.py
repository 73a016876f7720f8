"""A batch: a record for each line, whatever is in IN and wherever OUT is."""

import io
import json
import signal
import stat
import threading
from collections import Counter

import pytest
from client.batches import accounts, echo, numbers, pipe, read, run, write
from video_llava_client.batch import Line, OutputFile, OutputStream
from video_llava_client.testing import FakeServer, Refuse, Reply


@pytest.fixture
def server():
    with FakeServer(script=echo, num_threads=40) as running:
        yield running


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
    assert sampling["one?"] == {"max_tokens": 256, "temperature": 0.5, "top_p": 0.9, "priority": 1}
    assert sampling["two?"] == {"max_tokens": 3, "temperature": 0.5, "top_p": 0.9, "priority": 1, "top_k": 2}


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
    assert [record["line"] for record in records if "retry" in record] == [4], "the file may come"


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
    result = run(server, source, target, "--concurrency", 1)
    assert (result.exit_code, "asking again" in result.stderr) == (3, False)
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
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


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
    before = sorted(read(target), key=lambda record: record["line"])
    assert run(server, source, target, "--ordered").exit_code == 3, "the missing file is still missing"
    assert read(target) == before


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


def test_what_a_stream_holds_back_is_written_when_a_batch_is_stopped():
    file = io.BytesIO()
    with OutputStream(file, ordered=True) as output:
        for index in (2, 1, 3):
            output.write(Line(index + 1, index, b"{}"), {})
        assert file.getvalue() == b""
    assert [json.loads(record)["line"] for record in file.getvalue().splitlines()] == [2, 3, 4]
