"""The server or the client goes away in each phase of a request: the error, and that nothing outlasts its deadline."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from threading import Timer

import pytest
from client.helpers import INTERRUPTIBLE
from video_llava_client import (
    AsyncVideoLlava,
    DeadlineExceeded,
    InterruptedStream,
    Retry,
    Unavailable,
)
from video_llava_client.testing import FakeServer, Hang, Reply

TIMEOUT_SECONDS = 1.0
MARGIN_SECONDS = 2.0


@pytest.fixture
def short(connect):
    """Connects with a short deadline."""
    return lambda url: connect(url, timeout_seconds=TIMEOUT_SECONDS, retry=Retry(first_wait_seconds=0.1))


@contextmanager
def within_the_deadline():
    started = time.monotonic()
    yield
    assert time.monotonic() - started < TIMEOUT_SECONDS + MARGIN_SECONDS


@contextmanager
def server_process(*arguments):
    """A fake server in a process of its own, which can be killed; yields (process, url)."""
    command = [sys.executable, "-m", "video_llava_client.testing", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_after_it_was_connected_and_it_comes_back(short):
    with FakeServer() as server:
        client = short(server.url)
        client.ask()
        server.stop()
        with within_the_deadline(), pytest.raises(Unavailable, match="cannot reach"):
            client.ask()
        server.start()
        deadline = time.monotonic() + 15
        while True:
            try:
                assert client.ask().text
                break
            except Unavailable:
                assert time.monotonic() < deadline, "the client never came back"


def test_restarted_before_the_first_token(connect):
    with FakeServer(Hang(), Reply()) as server:

        def restart():
            server.stop()
            server.start()

        client = connect(server.url, timeout_seconds=20)
        Timer(0.3, restart).start()
        assert client.ask().num_attempts > 1


@pytest.mark.parametrize(
    ("seconds_per_token", "signal_number", "after_seconds", "error", "message"),
    [
        ("60", signal.SIGKILL, 0.3, Unavailable, "cannot reach"),
        ("0.2", signal.SIGKILL, 0.5, InterruptedStream, "in the middle of the answer"),
        ("60", signal.SIGSTOP, 0.3, DeadlineExceeded, "within timeout_seconds=1"),
        ("0.2", signal.SIGSTOP, 0.4, DeadlineExceeded, "no complete answer"),
    ],
    ids=["killed-before", "killed-in-the-middle", "frozen-before", "frozen-in-the-middle"],
)
def test_killed_or_frozen(short, seconds_per_token, signal_number, after_seconds, error, message):
    with server_process("--seconds-per-token", seconds_per_token) as (process, url):
        client = short(url)
        Timer(after_seconds, os.kill, [process.pid, signal_number]).start()
        with within_the_deadline(), pytest.raises(error, match=message) as caught:
            client.read()
    assert bool(caught.value.received) == (seconds_per_token == "0.2")


# The client goes away


def test_cancelling_the_task_cancels_the_request():
    async def leave(server):
        async with AsyncVideoLlava(server.url) as client:
            task = asyncio.create_task(client.ask("Hello?"))
            while not server.requests:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.requests[0].cancelled.wait, 5)

    with FakeServer(Hang()) as server:
        asyncio.run(leave(server))


def test_a_timeout_of_asyncios_cancels_the_request():
    async def leave(server):
        async with AsyncVideoLlava(server.url) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3), client.stream("Hello?") as stream:
                    async for _ in stream:
                        pass
            assert await asyncio.to_thread(server.requests[0].cancelled.wait, 5)

    with FakeServer(Hang(after_tokens=2)) as server:
        asyncio.run(leave(server))


def test_an_interrupt_cancels_a_blocking_request():
    code = "import sys; from video_llava_client import VideoLlava; VideoLlava(sys.argv[1]).ask('Hello?')"
    command = [sys.executable, "-c", f"{INTERRUPTIBLE} {code}"]
    with FakeServer(Hang()) as server, subprocess.Popen([*command, server.url], stderr=subprocess.PIPE) as process:
        while not server.requests:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
        assert b"KeyboardInterrupt" in stderr
        assert server.requests[0].cancelled.wait(5)
