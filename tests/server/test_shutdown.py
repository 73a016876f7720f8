"""A stop under load: what runs may end, what is new is refused, what takes too long is ended, nothing stays."""

import signal
import threading
import time
from pathlib import Path

import psutil
from support import slow_steps
from support.launcher import wait_until_gone
from support.tight_server import EXIT_TIMEOUT_SECONDS, TightServer
from video_llava_client import Retry, Unavailable, VideoLlava, VideoLlavaError

# Of each, beside streams that never end: three seconds for all eight, a fifth of the exit timeout.
NUM_TOKENS = 10


class Caller:
    """One stream of `max_tokens` slow tokens; in the end `num_tokens` of them had come, or there is an `error`."""

    def __init__(self, client: VideoLlava, max_tokens: int) -> None:
        self.num_tokens = 0
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(client, max_tokens))
        self._thread.start()

    def _run(self, client: VideoLlava, max_tokens: int) -> None:
        options = {"max_tokens": max_tokens, "sampling": {"ignore_eos": True, "seed": slow_steps.SEED}}
        try:
            with client.stream("What is a bicycle?", **options) as stream:
                for delta in stream:
                    self.num_tokens += delta.num_output_tokens
        except VideoLlavaError as exc:
            self.error = exc

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def join(self) -> None:
        self._thread.join(timeout=4 * EXIT_TIMEOUT_SECONDS)
        assert self.is_done


def test_a_stop_under_load(tight: TightServer, wait_for) -> None:
    launcher = tight.launcher
    with VideoLlava(tight.url, retry=Retry(num_attempts=1), timeout_seconds=100) as client:
        processes = launcher.descendants()
        shared_memory = set().union(*map(shared_memory_of, processes))
        assert shared_memory
        # Two places of the batch for the whole time, two for the eight in turn: most of them wait at first.
        endless = [Caller(client, 450) for _ in range(2)]
        wait_for(lambda: all(caller.num_tokens for caller in endless))
        ending = [Caller(client, NUM_TOKENS) for _ in range(8)]
        wait_for(lambda: num_begun(tight) + sum(caller.is_done for caller in ending) == len(ending) + len(endless))

        launcher.process.send_signal(signal.SIGTERM)
        stopped_at = time.monotonic()
        refusal = refused(client)
        for caller in (*ending, *endless):
            caller.join()
        code = launcher.finish(timeout_seconds=60)

    assert "this server is draining before its stop: ask another server" in str(refusal)
    assert [(caller.error, caller.num_tokens) for caller in ending] == [(None, NUM_TOKENS)] * 8
    for caller in endless:
        assert isinstance(caller.error, Unavailable)
        assert "this server stopped before the answer was complete" in str(caller.error)
    assert time.monotonic() - stopped_at < 4 * EXIT_TIMEOUT_SECONDS
    assert code == 0
    assert f"requests still ran after {EXIT_TIMEOUT_SECONDS} s and were ended" in launcher.stderr
    assert launcher.stderr.endswith("stopped\n")
    assert wait_until_gone(processes) == []
    assert [path for path in shared_memory if path.exists()] == []


def num_begun(tight: TightServer) -> float:
    """Requests in the engine, those that wait there included."""
    now = tight.metrics()
    return now["vllm:num_requests_running{vicuna}"] + now["vllm:num_requests_waiting{vicuna}"]


def shared_memory_of(process: psutil.Process) -> set[Path]:
    """The files in /dev/shm that a process has mapped."""
    names = (mapped.path for mapped in process.memory_maps())
    return {Path(name) for name in names if name.startswith("/dev/shm/") and "(deleted)" not in name}


def refused(client: VideoLlava) -> Unavailable:
    """What a new caller is told; the first may come before the drain."""
    while True:
        try:
            client.ask("What is a bicycle?", max_tokens=1)
        except Unavailable as exc:
            return exc
