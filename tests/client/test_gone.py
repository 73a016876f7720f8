"""The server goes away in each phase of a request: what the caller gets, and that nothing outlasts its deadline."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from threading import Timer

import pytest
from video_llava_client import (
    AsyncVideoLlava,
    Cancelled,
    DeadlineExceeded,
    InterruptedStream,
    Retry,
    StateError,
    Unavailable,
    VideoLlava,
)
from video_llava_client.testing import FakeServer, Hang, Reply

TIMEOUT_SECONDS = 1.0


class Blocking:
    """The blocking client, as the tests below use either."""

    def __init__(self, url):
        self._client = VideoLlava(url, timeout_seconds=TIMEOUT_SECONDS, retry=Retry(first_wait_seconds=0.1))

    def ask(self):
        return self._client.ask("Hello?")

    def stream(self):
        with self._client.stream("Hello?") as stream:
            return [delta.text for delta in stream]

    def close(self):
        self._client.close()


class Asyncio:
    """The asyncio client, driven from outside its loop."""

    def __init__(self, url):
        self._runner = asyncio.Runner()
        self._client = AsyncVideoLlava(url, timeout_seconds=TIMEOUT_SECONDS, retry=Retry(first_wait_seconds=0.1))

    def ask(self):
        return self._runner.run(self._client.ask("Hello?"))

    def stream(self):
        async def read():
            async with self._client.stream("Hello?") as stream:
                return [delta.text async for delta in stream]

        return self._runner.run(read())

    def close(self):
        self._runner.run(self._client.close())
        self._runner.close()


@pytest.fixture(params=[Blocking, Asyncio])
def connect(request):
    clients = []

    def make(url):
        clients.append(request.param(url))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@contextmanager
def within(seconds):
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


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


def test_before_it_is_connected(connect):
    with (
        within(TIMEOUT_SECONDS + 0.5),
        pytest.raises(Unavailable, match=r"cannot reach 127\.0\.0\.1:1 .*check the addr"),
    ):
        connect("127.0.0.1:1").ask()


def test_after_it_was_connected_and_it_comes_back(connect):
    with FakeServer() as server:
        client = connect(server.url)
        client.ask()
        server.stop()
        with within(TIMEOUT_SECONDS + 0.5), pytest.raises(Unavailable, match="cannot reach"):
            client.ask()
        server.start()
        deadline = time.monotonic() + 15
        while True:
            try:
                assert client.ask().text
                break
            except Unavailable:
                assert time.monotonic() < deadline, "the client never came back"


def test_killed_before_the_first_token(connect):
    with server_process("--seconds-per-token", "60") as (process, url):
        client = connect(url)
        Timer(0.3, process.kill).start()
        with within(TIMEOUT_SECONDS + 0.5), pytest.raises(Unavailable, match="cannot reach"):
            client.stream()


def test_restarted_before_the_first_token(connect):
    with FakeServer(Hang(), Reply()) as server:

        def restart():
            server.stop()
            server.start()

        client = connect(server.url)
        Timer(0.3, restart).start()
        assert client.ask().num_attempts > 1


def test_killed_in_the_middle(connect):
    with server_process("--seconds-per-token", "0.2") as (process, url):
        client = connect(url)
        client_started = time.monotonic()
        Timer(0.5, process.kill).start()
        with pytest.raises(InterruptedStream, match="in the middle of the answer") as caught:
            client.stream()
        assert time.monotonic() - client_started < TIMEOUT_SECONDS + 1
    assert caught.value.received[0].text == "This"


def test_frozen_before_the_first_token(connect):
    with server_process() as (process, url):
        client = connect(url)
        client.ask()
        os.kill(process.pid, signal.SIGSTOP)
        with within(TIMEOUT_SECONDS + 0.5), pytest.raises(DeadlineExceeded, match=r"within timeout_seconds=1"):
            client.ask()


def test_frozen_in_the_middle(connect):
    with server_process("--seconds-per-token", "0.2") as (process, url):
        client = connect(url)
        Timer(0.4, os.kill, [process.pid, signal.SIGSTOP]).start()
        with within(TIMEOUT_SECONDS + 0.5), pytest.raises(DeadlineExceeded, match="no complete answer") as caught:
            client.stream()
    assert caught.value.received


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


def test_leaving_the_async_block_cancels_the_request():
    async def leave(server):
        async with AsyncVideoLlava(server.url) as client:
            async with client.stream("Hello?") as stream:
                assert (await anext(stream)).text == "This"
            with pytest.raises(StateError, match="the answer is not complete"):
                _ = stream.answer
            assert await asyncio.to_thread(server.requests[0].cancelled.wait, 5)

    with FakeServer(Hang(after_tokens=1)) as server:
        asyncio.run(leave(server))


def test_closing_the_async_client_cancels_what_is_open():
    async def leave(server):
        async with AsyncVideoLlava(server.url) as client, client.stream("Hello?") as stream:
            asyncio.get_running_loop().call_later(0.3, lambda: asyncio.ensure_future(client.close()))
            with pytest.raises(Cancelled, match="its stream or its client was closed"):
                await anext(stream)

    with FakeServer(Hang()) as server:
        asyncio.run(leave(server))


def test_an_interrupt_cancels_a_blocking_request():
    # A shell that runs the tests in the background lets all of them ignore the interrupt.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    code += "import sys; from video_llava_client import VideoLlava; VideoLlava(sys.argv[1]).ask('Hello?')"
    with FakeServer(Hang()) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", code, server.url],
            stderr=subprocess.PIPE,
        )
        with process:
            while not server.requests:
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=20)
        assert b"KeyboardInterrupt" in stderr
        assert server.requests[0].cancelled.wait(5)


def test_a_closed_async_client_sends_nothing():
    async def ask(server):
        client = AsyncVideoLlava(server.url)
        await client.close()
        with pytest.raises(StateError, match="this client is closed"):
            await client.ask("Hello?")

    with FakeServer() as server:
        asyncio.run(ask(server))
        assert server.requests == []


def test_an_async_stream_is_read_inside_its_block_and_once():
    async def misuse(server):
        async with AsyncVideoLlava(server.url) as client:
            stream = client.stream("Hello?")
            with pytest.raises(StateError, match="write `async with client"):
                await anext(stream)
            async with stream:
                assert (await anext(stream)).text == "This"
            with pytest.raises(StateError, match="a stream serves one `async with` block"):
                async with stream:
                    pass

    with FakeServer() as server:
        asyncio.run(misuse(server))
