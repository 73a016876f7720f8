"""SIGTERM under load: running requests may end, new ones are refused, late ones are ended, nothing is left behind."""

import signal
import time

from support.callers import Caller
from support.launcher import wait_until_gone
from support.resources import shared_files
from support.small_server import EXIT_TIMEOUT_SECONDS, SmallServer
from support.waiting import wait_until
from video_llava_client import Retry, Unavailable, VideoLlava

# Of each answer that ends in time: three seconds for all eight, a fifth of the exit timeout.
NUM_TOKENS = 10


def test_a_stop_under_load(small: SmallServer) -> None:
    launcher = small.launcher
    with VideoLlava(small.url, retry=Retry(num_attempts=1), timeout_seconds=100) as client:
        processes = launcher.descendants()
        shared_memory = {path for path in shared_files(processes) if path.exists()}
        assert shared_memory
        # Two places of the batch for the whole time, two for the eight others: most of them wait at first.
        endless = [Caller(client, max_tokens=450) for _ in range(2)]
        for caller in endless:
            caller.wait_for_a_token()
        ending = [Caller(client, max_tokens=NUM_TOKENS) for _ in range(8)]
        wait_until(lambda: num_begun(small) + sum(caller.is_done for caller in ending) == len(ending) + len(endless))

        launcher.process.send_signal(signal.SIGTERM)
        stopped_at = time.monotonic()
        refusal = refused(client)
        for caller in (*ending, *endless):
            caller.join()
        code = launcher.finish(timeout_seconds=90)

    assert "this server is draining before its stop: ask another server" in str(refusal)
    assert [(caller.error, caller.num_tokens) for caller in ending] == [(None, NUM_TOKENS)] * 8
    # Sent late (slow_ends.py): after SIGTERM, Triton would have said "Server is stopping" instead.
    for caller in endless:
        assert isinstance(caller.error, Unavailable)
        assert "this server stopped before the answer was complete" in str(caller.error)
    assert time.monotonic() - stopped_at > EXIT_TIMEOUT_SECONDS
    assert code == 0, launcher.stderr
    assert f"requests still ran after {EXIT_TIMEOUT_SECONDS} s and were ended" in launcher.stderr
    assert launcher.stderr.endswith("stopped\n")
    assert wait_until_gone(processes) == []
    assert [path for path in shared_memory if path.exists()] == []


def num_begun(small: SmallServer) -> float:
    """Requests in the engine, those that wait there included."""
    now = small.metrics()
    return now["vllm:num_requests_running{vicuna}"] + now["vllm:num_requests_waiting{vicuna}"]


def refused(client: VideoLlava) -> Unavailable:
    """What a new caller is told; the first may come before the drain."""
    while True:
        try:
            client.ask("What is a bicycle?", max_tokens=1)
        except Unavailable as exc:
            return exc
