"""What dies is told to whom it was answering, and started again."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support import slow_steps
from support.launcher import FREE_PORTS, Launcher
from video_llava_client import ServerError, VideoLlava, VideoLlavaError

ENDLESS = {"ignore_eos": True, "seed": slow_steps.SEED}


@pytest.fixture(scope="module")
def launcher(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A server of this file's own, started as users do."""
    log = tmp_path_factory.mktemp("faults") / "server.log"
    launched = Launcher("--repository", repository, *FREE_PORTS, "--log-file", log)
    yield launched
    launched.end()


@pytest.fixture(scope="module")
def address(launcher: Launcher) -> str:
    return launcher.wait_ready()


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
                    "What?", max_tokens=900, sampling={"ignore_eos": True, "seed": slow_steps.SEED}
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


@pytest.mark.parametrize(
    ("dies", "said"),
    [
        (is_engine, "vLLM's process VLLM::EngineCore has died"),
        (is_stub_of_vicuna, "the process of the model 'vicuna' has died"),
    ],
    ids=["engine", "stub"],
)
def test_a_death_ends_what_runs_with_an_error_and_the_server_comes_back(
    launcher: Launcher, address: str, dies: Callable[[psutil.Process], bool], said: str
) -> None:
    with VideoLlava(address) as client:
        assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0
    victim = next(filter(dies, launcher.descendants()))
    streaming = Streaming(address)
    victim.kill()
    streaming.join(timeout_seconds=15)
    assert isinstance(streaming.error, ServerError)

    assert launcher.wait_ready() == address
    assert said in launcher.stderr
    with VideoLlava(address) as client:
        assert client.ask("What is a bicycle?", max_tokens=3).num_output_tokens > 0
