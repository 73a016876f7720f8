"""SIGTERM ends a batch: what is in flight is answered, nothing else is asked, and the same command resumes."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from typing import Any

import pytest
from client.batches import numbers, read, wait_until, write
from client.helpers import COMMAND
from video_llava_client.batch.columns import Columns
from video_llava_client.batch.dataset import Shard
from video_llava_client.batch.parts import Flush, Parts
from video_llava_client.batch.storage import Address
from video_llava_client.cli.batch import answer_file
from video_llava_client.cli.output import TERMINATED
from video_llava_client.testing import FakeServer, Hang, Refuse, Reply


def slow(request):
    return Reply(request.prompt.split()[1], seconds_per_token=0.3)


def start(server, source, target, *options):
    arguments = [str(source), str(target), "--url", server.url, "--concurrency", "8", *options]
    return subprocess.Popen(
        [*COMMAND, "batch", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def ended(process):
    """Return the exit code and what was written to stderr."""
    _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr


def records_of(target):
    files = sorted(target.glob("part-*")) if target.is_dir() else [target]
    return [record for file in files for record in read(file)]


@pytest.mark.parametrize("name", ["out.jsonl", "out/"])
def test_what_is_in_flight_ends_and_nothing_is_asked_twice(source, tmp_path, name):
    write(source, *numbers(60))
    with FakeServer(script=slow, num_threads=40) as server:
        with start(server, source, f"{tmp_path}/{name}", "--report", f"{tmp_path}/report.json") as process:
            wait_until(lambda: len(server.requests) > 20, process)
            process.send_signal(signal.SIGTERM)
            code, stderr = ended(process)
        num_asked = len(server.requests)
        assert (code, num_asked < 60) == (TERMINATED, True)
        assert f"{num_asked} answered, 0 failed, " in stderr
        assert len(records_of(tmp_path / name)) == num_asked
        assert not list(tmp_path.glob("out/done-*"))
        assert json.loads((tmp_path / "report.json").read_text())["is_finished"] is False
        with start(server, source, f"{tmp_path}/{name}") as process:
            assert ended(process)[0] == 0
        asked = Counter(request.prompt for request in server.requests)
    assert (len(asked), max(asked.values())) == (60, 1)
    assert {record["id"] for record in records_of(tmp_path / name)} == {line["id"] for line in numbers(60)}


@pytest.mark.parametrize(("grace", "num_signals"), [("0.2", 1), ("300", 2)])
def test_what_does_not_end_is_given_up(server, source, target, grace, num_signals):
    """After the time for it, or at the second signal."""
    server.then(Reply("Now."), Hang())
    write(source, *numbers(30))
    with start(server, source, target, "--grace", grace) as process:
        wait_until(lambda: len(server.requests) >= 3, process)
        wait_until(lambda: target.stat().st_size, process)
        for _ in range(num_signals):
            process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        code, stderr = ended(process)
    assert code == TERMINATED
    assert "1 answered, 0 failed, 29 not answered (the same command resumes) in" in stderr
    assert len(read(target)) == 1


@pytest.mark.parametrize("what", ["pipe", "full", "away"])
def test_what_only_waits_is_not_waited_for(server, source, target, what):
    """For a line of a pipe, for a server that is full, for one that is away."""
    server.then(Reply("Now."), Refuse("UNAVAILABLE: 4 wait: try again, reason=full, retry_after_seconds=300"))
    lines = numbers(1 if what == "pipe" else 30)
    if what == "pipe":
        os.mkfifo(source)
    else:
        write(source, *lines)
    with start(server, source, target, "--attempts", "1", "--grace", "300") as process:
        held = os.open(source, os.O_WRONLY) if what == "pipe" else os.open(os.devnull, os.O_WRONLY)
        os.write(held, b'{"question": "?"}\n')
        wait_until(lambda: target.exists() and target.stat().st_size, process)
        if what == "away":
            server.stop()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        code, stderr = ended(process)
        os.close(held)
    assert code == TERMINATED
    assert stderr.endswith("video-llava: ended by SIGTERM\n")
    assert len(read(target)) == 1


def test_before_anything_is_asked_it_ends_the_process(source, target, monkeypatch):
    """In a container the first process, which this one is there, ignores a signal that it does not handle."""
    monkeypatch.setattr("video_llava_client.cli.batch._open_lines", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    others: Any = Everything()
    with pytest.raises(SystemExit, match=str(TERMINATED)):
        answer_file(str(source), str(target), False, None, others, others, others, others, others)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


class Everything:
    """Options that are not looked at."""

    grace, model = 1.0, "video_llava"

    def arguments(self):
        return {"sampling": {}}


def test_a_part_that_cannot_be_written_is_an_error_of_a_batch_that_is_stopped_too(tmp_path):
    """Its rows have no records."""
    folder, flush = tmp_path / "out", Flush(seconds=0, patience_seconds=0)
    with (
        pytest.raises(OSError, match="cannot be written"),
        Parts(Address.of(str(folder)), Shard(), options={}, flush=flush) as parts,
    ):
        shutil.rmtree(folder)
        folder.write_bytes(b"")
        parts.write(Columns().row({"id": 1, "question": "?"}, 1, {"file": "", "row": 0}, Address.of(".")), {"text": ""})
