"""A batch answers each line once, whatever dies in between."""

import os
import random
import signal
import socket
import threading
import time
from collections import Counter

import pytest
from client.batches import accounts, echo, limited, numbers, read, run, start, wait_until, write
from video_llava_client import decoding
from video_llava_client.batch.runner import MAX_INTERRUPTIONS
from video_llava_client.decoding import sample_video
from video_llava_client.testing import BreakOff, FakeServer, Hang, Refuse, Reply


@pytest.fixture
def server():
    with FakeServer(script=echo, num_threads=40) as running:
        yield running


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
    assert [accounts(result)[1] for result in results] == [0] * 3
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


def test_a_line_that_is_asked_again_is_not_decoded_again(server, source, target, tmp_path, bikes):
    """From this pipe its video can be read once."""
    server.then(*[Refuse("UNAVAILABLE: try again, reason=full")] * 3, Reply("Now."))
    os.mkfifo(tmp_path / "pipe")
    threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(bikes.read_bytes()), daemon=True).start()
    write(source, {"question": "What?", "video": str(tmp_path / "pipe"), "end_seconds": 2})
    result = run(server, source, target)
    assert (result.exit_code, len(server.requests)) == (0, 4)
    assert read(target)[0]["text"] == "Now."


def test_a_queue_of_videos_costs_no_line_its_time(server, source, target, bikes, monkeypatch):
    """On two cores the last of sixteen is decoded after four seconds."""

    def sample_late(*arguments, **options):
        time.sleep(0.5)
        return sample_video(*arguments, **options)

    monkeypatch.setattr(decoding, "sample_video", sample_late)
    write(source, *({"question": "What?", "video": str(bikes)} for _ in range(16)))
    result = run(server, source, target, "--timeout", 3)
    assert (result.exit_code, accounts(result)) == (0, (16, 0, 0, 0))


@pytest.mark.parametrize("what", ["answer", "download", "pipe", "server"])
def test_ctrl_c_ends_it_whatever_it_waits_for(server, source, target, what, tmp_path):
    """Within a second; a loaded machine gets more. What is answered has its record."""
    server.then(Reply("Now."), Hang())
    os.mkfifo(tmp_path / "pipe")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/clip.mp4"
        media = {"download": {"video": address}, "pipe": {"images": str(tmp_path / "pipe")}}.get(what, {})
        write(source, *numbers(1), *({"question": "?", **media} for _ in range(30)))
        with start(server, source, target) as process:
            wait_until(lambda: target.exists() and target.stat().st_size, process)
            if what == "server":
                server.stop()
            time.sleep(0.5)
            process.send_signal(signal.SIGINT)
            interrupted = time.monotonic()
            _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - interrupted < 10
    assert process.returncode == 130
    assert "1 answered, 0 failed, 30 not answered (the same command resumes) in" in stderr
    assert len(read(target)) == 1


def test_two_at_once_on_one_output(server, source, target):
    server.then(Hang())
    write(source, *numbers(3))
    with start(server, source, target) as process:
        wait_until(lambda: server.requests, process)
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
            wait_until(lambda: len(server.requests) >= begun + stop_after, process)  # noqa: B023
            process.kill()
    result = run(server, source, target, "--ordered")
    assert result.exit_code == 0
    records = read(target)
    assert [record["text"] for record in records] == [f"{number}?" for number in range(500)]
    asked = Counter(request.prompt for request in server.requests)
    # What was under way when it was killed, eight lines at most each time, had no answer yet.
    assert len(server.requests) <= 500 + 2 * 8
    assert set(asked.values()) <= {1, 2, 3}
