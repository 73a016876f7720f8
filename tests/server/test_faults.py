"""What dies is told to whom it was answering, and started again; want of memory or disk ends nothing."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from support import slow_steps
from support.tight_server import MAX_NUM_SEQS, TightServer
from video_llava_client import ServerError, VideoLlava, VideoLlavaError

PREEMPTIONS = "vllm:num_preemptions_total{vicuna}"


class Streaming:
    """A caller in the middle of an answer; `error` is what it got in the end, None for the whole answer."""

    def __init__(self, url: str) -> None:
        self.error: Exception | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(url,))
        self._thread.start()
        assert self._begun.wait(timeout=60)

    def _run(self, url: str) -> None:
        try:
            with (
                VideoLlava(url) as client,
                client.stream(
                    "What?", max_tokens=400, sampling={"ignore_eos": True, "seed": slow_steps.SEED}
                ) as stream,
            ):
                for _ in stream:
                    self._begun.set()
        except VideoLlavaError as exc:
            self.error = exc

    def join(self, *, timeout_seconds: float) -> None:
        self._thread.join(timeout=timeout_seconds)
        assert not self._thread.is_alive()


def is_engine(process: psutil.Process) -> bool:
    return process.cmdline()[0].startswith("VLLM::EngineCore")


def is_stub_of_vicuna(process: psutil.Process) -> bool:
    return process.name() == "triton_python_backend_stub" and "vicuna" in process.cmdline()[1]


def probe(url: str) -> int:
    """What a readiness check would see."""
    command = [Path(sys.executable).with_name("video-llava"), "probe", "--url", url, "--timeout", "5"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def test_want_of_cache_puts_requests_back_and_changes_no_answer(tight: TightServer) -> None:
    options = {"max_tokens": 250, "sampling": {"ignore_eos": True}}
    questions = [f"What is a bicycle, told for the {nth} time?" for nth in ("first", "second", "third", "fourth")]
    with VideoLlava(tight.url, timeout_seconds=120) as client, ThreadPoolExecutor(MAX_NUM_SEQS) as pool:

        def ask(question: str) -> tuple[int, ...]:
            return tuple(client.ask(question, **options).token_ids)

        alone = [ask(question) for question in questions]
        before = tight.metrics()[PREEMPTIONS]
        together = list(pool.map(ask, questions))
    assert tight.metrics()[PREEMPTIONS] > before
    assert together == alone


def test_a_seed_does_not_end_the_engine_where_a_prompt_is_read_in_pieces(tight: TightServer) -> None:
    options = {"max_tokens": 8, "temperature": 1.0, "sampling": {"seed": 7, "ignore_eos": True}}
    with VideoLlava(tight.url, timeout_seconds=60) as client:
        assert client.ask("What is a bicycle? " * 5, **options).num_output_tokens == 8


@pytest.mark.parametrize(
    ("dies", "said"),
    [
        (is_engine, "vLLM's process VLLM::EngineCore has died"),
        (is_stub_of_vicuna, "the process of the model 'vicuna' has died"),
    ],
    ids=["engine", "stub"],
)
def test_a_death_ends_what_runs_with_an_error_and_the_server_comes_back(
    tight: TightServer, dies: Callable[[psutil.Process], bool], said: str
) -> None:
    url, launcher = tight.url, tight.launcher
    assert probe(url) == 0
    victim = next(filter(dies, launcher.descendants()))
    streaming = Streaming(url)
    victim.kill()
    died = time.monotonic()
    assert probe(url) == 1
    assert time.monotonic() - died < 5
    streaming.join(timeout_seconds=15)
    assert isinstance(streaming.error, ServerError)

    assert launcher.wait_ready() == url
    assert said in launcher.stderr
    assert probe(url) == 0


def test_a_full_disk_for_the_log_ends_neither_the_server_nor_its_next_start(tight: TightServer) -> None:
    url, launcher = tight.url, tight.launcher
    if not tight.fill_the_disk():
        pytest.skip("only root may mount the small disk that this fills")
    try:
        assert probe(url) == 0
        next(filter(is_stub_of_vicuna, launcher.descendants())).kill()
        assert launcher.wait_ready() == url
        assert probe(url) == 0
    finally:
        tight.free_the_disk()
