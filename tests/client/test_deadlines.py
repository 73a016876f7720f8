"""A request ends in time in each of its phases, by its deadline, by `close` and by a cancelled task: both clients."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from client.helpers import Raw, delta, replace_method
from video_llava_client import (
    AsyncVideoLlava,
    Cancelled,
    DeadlineExceeded,
    StateError,
    Unavailable,
    VideoLlava,
    decoding,
)
from video_llava_client.testing import FakeServer, Hang, Refuse

FULL = Refuse("UNAVAILABLE: 64 requests are in flight: try again, reason=full, retry_after_seconds=30.0")
MARGIN_SECONDS = 5.0  # far below what the request would take without its end


@dataclass
class Phase:
    """Keeps a request in one phase; `options` ask the question, and `reached` tells that it is there."""

    options: dict[str, Any]
    reached: threading.Event = field(default_factory=threading.Event)


@pytest.fixture(params=["metadata", "decoding", "delay", "first token", "answer"])
def phase(request, server, bikes, monkeypatch):
    held = Phase({"video": bikes} if request.param in ("metadata", "decoding") else {})

    def hold_metadata(_server, _request, context):
        held.reached.set()
        while context.is_active():
            time.sleep(0.01)

    def hold_decoding(media, **_options):
        held.reached.set()
        while True:
            media.budget.check_time()
            time.sleep(0.01)

    def answer(_request):
        threading.Timer(0.1, held.reached.set).start()
        return {"delay": FULL, "first token": Hang(), "answer": Hang(after_tokens=1)}[request.param]

    if request.param == "metadata":
        replace_method(monkeypatch, server, "ModelMetadata", hold_metadata)
    elif request.param == "decoding":
        monkeypatch.setattr(decoding, "sample_video", hold_decoding)
    server.then(script=answer)
    return held


def read_in_thread(client, phase, end):
    """Read a stream in another thread; when it has reached the phase, call `end(stream)`, and return its error."""
    stream = client.stream("What?", **phase.options)

    def read():
        with stream:
            list(stream)

    with ThreadPoolExecutor(1) as readers:
        reading = readers.submit(read)
        assert phase.reached.wait(30)
        started = time.monotonic()
        end(stream)
        error = reading.exception(timeout=60)
    return error, time.monotonic() - started


async def read_in_task(client, phase, end):
    """As `read_in_thread`, in a task; `end(stream, task)`."""
    stream = client.stream("What?", **phase.options)

    async def read():
        async with stream:
            _ = [delta async for delta in stream]

    task = asyncio.create_task(read())
    assert await asyncio.to_thread(phase.reached.wait, 30)
    started = time.monotonic()
    await end(stream, task)
    await asyncio.wait([task], timeout=60)
    with suppress(asyncio.CancelledError):
        return task.exception(), time.monotonic() - started
    return asyncio.CancelledError(), time.monotonic() - started


@pytest.mark.parametrize("what", ["stream", "client"])
def test_close_ends_a_request_in_every_phase(connect, server, phase, what):
    connected = connect(server.url, timeout_seconds=60)
    if isinstance(connected.client, AsyncVideoLlava):

        async def end(stream, _task):
            if what == "stream":
                stream.close()
            else:
                await connected.client.close()

        error, seconds = connected._runner.run(read_in_task(connected.client, phase, end))
    else:
        error, seconds = read_in_thread(
            connected.client, phase, lambda stream: stream.close() if what == "stream" else connected.client.close()
        )
    assert type(error) is Cancelled, error
    assert "was cancelled" in str(error)
    assert seconds < MARGIN_SECONDS
    num_requests = len(server.requests)
    time.sleep(0.3)
    assert len(server.requests) == num_requests <= 1  # nothing is sent after it


def test_a_cancelled_task_ends_its_request_in_every_phase(server, phase):
    async def end(_stream, task):
        task.cancel()

    async def run():
        async with AsyncVideoLlava(server.url, timeout_seconds=60) as client:
            return await read_in_task(client, phase, end)

    error, seconds = asyncio.run(run())
    assert isinstance(error, asyncio.CancelledError)
    assert seconds < MARGIN_SECONDS


def test_the_deadline_ends_a_request_in_every_phase(connect, server, phase):
    started = time.monotonic()
    # A full server that says to return after the deadline: its own error, at once.
    with pytest.raises((DeadlineExceeded, Unavailable), match=r"within timeout_seconds=0\.5|retry_after_seconds=30"):
        connect(server.url).call("ask", "What?", timeout_seconds=0.5, **phase.options)
    assert time.monotonic() - started < MARGIN_SECONDS
    assert phase.reached.wait(5)


def test_requests_do_not_wait_for_each_other_at_a_frozen_server(server, bikes, monkeypatch):
    def hold(_server, _request, context):
        while context.is_active():
            time.sleep(0.01)

    replace_method(monkeypatch, server, "ModelMetadata", hold)
    started = time.monotonic()
    with VideoLlava(server.url) as client, ThreadPoolExecutor(8) as threads:
        asking = [threads.submit(client.ask, "What?", video=bikes, timeout_seconds=0.5) for _ in range(8)]
        assert all(isinstance(each.exception(timeout=60), DeadlineExceeded) for each in asking)
    assert time.monotonic() - started < MARGIN_SECONDS


def test_the_queue_for_a_decoder_is_in_the_deadline(server, bikes, monkeypatch):
    goes_on = threading.Event()
    monkeypatch.setattr(decoding, "sample_video", lambda *_, **__: goes_on.wait(60))

    async def run():
        async with AsyncVideoLlava(server.url) as client:
            slow = [asyncio.create_task(client.ask("What?", video=bikes)) for _ in range(64)]
            await asyncio.sleep(0.2)
            with pytest.raises(DeadlineExceeded, match=r"within timeout_seconds=0\.5"):
                await client.ask("What?", video=bikes, timeout_seconds=0.5)
            for task in slow:
                task.cancel()
            goes_on.set()

    asyncio.run(asyncio.wait_for(run(), 30))


def test_silent_addresses_do_not_hold_up_a_local_file(server, bikes):
    async def run(address):
        async with AsyncVideoLlava(server.url) as client:
            silent = [asyncio.create_task(client.ask("What?", video=address)) for _ in range(16)]
            await asyncio.sleep(0.2)
            assert (await client.ask("What?", video=bikes, timeout_seconds=20)).text
            for task in silent:
                task.cancel()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        asyncio.run(asyncio.wait_for(run(f"http://127.0.0.1:{listening.getsockname()[1]}/a.mp4"), 30))


def test_a_token_that_does_not_come(server):
    async def never():
        await asyncio.sleep(600)
        return ""

    async def run():
        async with AsyncVideoLlava(server.url, token=never, timeout_seconds=0.3) as client:
            await client.ask("Hello?")

    with pytest.raises(DeadlineExceeded, match=r"within timeout_seconds=0\.3"):
        asyncio.run(asyncio.wait_for(run(), 30))
    assert server.requests == []


def test_the_last_delta_does_not_wait_for_the_end_of_the_stream(connect):
    goes_on = threading.Event()

    def slow_to_end(_request, _context):
        yield delta("cat", 1, reason="stop", final=True)
        goes_on.wait(30)

    with FakeServer(Raw(send=slow_to_end)) as server:
        with connect(server.url).stream() as stream:
            first = next(stream)
            goes_on.set()
            others, answer = list(stream), stream.answer
        assert (first.text, others, answer.text) == ("cat", [], "cat")


def test_a_stream_that_the_server_does_not_end_is_left_all_the_same(connect):
    def endless(_request, context):
        yield delta("cat", 1, reason="stop", final=True)
        while context.is_active():
            time.sleep(0.01)

    with FakeServer(Raw(send=endless)) as server:
        assert connect(server.url, timeout_seconds=60).ask().text == "cat"
        assert server.requests[0].cancelled.wait(5)


def test_one_task_reads_at_a_time_and_leaving_the_block_ends_the_other(server):
    server.then(Hang(after_tokens=1))

    async def run():
        async with AsyncVideoLlava(server.url) as client:
            async with client.stream("What?") as stream:
                await anext(stream)
                other = asyncio.create_task(anext(stream))
                await asyncio.sleep(0.1)
                with pytest.raises(StateError, match="another thread or task reads this stream"):
                    await anext(stream)
            with pytest.raises(Cancelled):
                await other

    asyncio.run(asyncio.wait_for(run(), 30))


def test_a_stream_closed_before_its_block_sends_nothing(server):
    with VideoLlava(server.url) as client:
        stream = client.stream("What?")
        stream.close()
        with pytest.raises(Cancelled, match="closed before its block"), stream:
            pass
    assert server.requests == []
