"""Many requests at once over one client object: nothing is left behind, and an event loop is not held up."""

import asyncio
import gc
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from video_llava_client import AsyncVideoLlava, VideoLlava, decoding
from video_llava_client.decoding import sample_video
from video_llava_client.testing import FakeServer, Reply

NUM_REQUESTS = 200


@pytest.fixture(scope="module")
def server():
    # In a process of its own, its threads and files would not be counted; here, all 200 must be there at once.
    everyone = threading.Barrier(NUM_REQUESTS)

    def echo(request):
        if request.num_words > 2 and request.prompt.startswith("USER: together"):
            everyone.wait(60)
        return Reply(request.prompt.split()[2])

    with FakeServer(script=echo, num_threads=NUM_REQUESTS) as running:
        yield running


def leftovers():
    """Return (threads of this process but the server's, open files)."""
    gc.collect()
    threads = [thread for thread in threading.enumerate() if not thread.name.startswith("fake-server")]
    return len(threads), len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def check_nothing_is_left(server, before, *, more_threads=0, more_files=0):
    """Wait until no stream is open, and there are as many threads and files as `before`, or that many more."""
    allowed = before[0] + more_threads, before[1] + more_files
    deadline = time.monotonic() + 10
    while server.num_open_streams or (now := leftovers())[0] > allowed[0] or now[1] > allowed[1]:
        assert time.monotonic() < deadline, f"{server.num_open_streams} streams; {leftovers()} after {before}"
        time.sleep(0.1)


def test_200_threads_over_one_client(server):
    with VideoLlava(server.url) as client:
        client.ask("alone 0")
        before = leftovers()
        with ThreadPoolExecutor(NUM_REQUESTS) as pool:
            answers = list(pool.map(lambda n: client.ask(f"together {n}").text, range(NUM_REQUESTS)))
        assert answers == [str(number) for number in range(NUM_REQUESTS)]
        assert len({request.peer for request in server.requests}) == 1
        check_nothing_is_left(server, before)


def test_200_tasks_over_one_client(server):
    async def ask_all():
        async with AsyncVideoLlava(server.url) as client:
            await client.ask("alone 0")
            before = leftovers()
            answers = await asyncio.gather(*(client.ask(f"together {n}") for n in range(NUM_REQUESTS)))
            assert [answer.text for answer in answers] == [str(number) for number in range(NUM_REQUESTS)]
            del answers
            assert len(asyncio.all_tasks()) == 1
            # One more decoder, and the thread that asks.
            await asyncio.to_thread(check_nothing_is_left, server, before, more_threads=2)

    asyncio.run(ask_all())


def test_closed_clients_leave_nothing(server):
    def once():
        with VideoLlava(server.url) as client:
            client.ask("alone 0")

    async def once_async():
        async with AsyncVideoLlava(server.url) as client:
            await client.ask("alone 0", images=np.zeros((9, 9, 3), np.uint8))

    for _ in range(3):
        once()
        asyncio.run(once_async())
    before = leftovers()
    for _ in range(10):
        once()
        asyncio.run(once_async())
    check_nothing_is_left(server, before, more_files=2)  # gRPC polls from files of its own


def test_streams_left_early_leave_nothing(server):
    with VideoLlava(server.url) as client:
        client.ask("alone 0")
        before = leftovers()
        for number in range(50):
            with client.stream(f"alone {number}"):
                pass
        check_nothing_is_left(server, before)


def test_decoding_does_not_hold_up_the_event_loop(server, bikes, monkeypatch):
    """Each decoding waits until the event loop has gone on: on the loop itself that would never come."""
    goes_on = threading.Event()

    def sample_late(*arguments, **options):
        assert goes_on.wait(timeout=60), "decoding held up the event loop"
        return sample_video(*arguments, **options)

    async def ask_all():
        async with AsyncVideoLlava(server.url) as client:
            asking = [asyncio.create_task(client.ask(f"alone {number}", video=bikes)) for number in range(12)]
            await asyncio.sleep(0.1)
            goes_on.set()
            return await asyncio.gather(*asking)

    monkeypatch.setattr(decoding, "sample_video", sample_late)
    answers = asyncio.run(ask_all())
    assert min(answer.stage_seconds.decode for answer in answers) > 0
