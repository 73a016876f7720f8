"""One real server for all tests of this folder: a small checkpoint, exported, on Triton and vLLM in float32."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import slow_steps
from support.collector import Collector
from support.export import export, make_random_checkpoint
from support.reference import Reference, sample_like_the_model_card
from support.tight_server import TightServer
from video_llava_client import VideoLlava
from video_llava_serve import LocalServer

CLIP = Path(__file__).parents[1] / "media" / "bikes.mp4"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_random_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def repository(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server") / "models"
    export(checkpoint, folder, **slow_steps.ENGINE_ARGUMENTS)
    slow_steps.install(folder)
    return folder


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the server sends traces."""
    with Collector() as listening:
        yield listening


@pytest.fixture(scope="session")
def server(repository: Path, collector: Collector) -> Iterator[LocalServer]:
    with LocalServer(
        repository=repository, http_port=0, grpc_port=0, metrics_port=0, otlp_endpoint=collector.url
    ) as running:
        yield running
    # Triton waits for what is in flight: had any request of any test leaked, it would have been stopped by force.
    assert running.stopped_cleanly


@pytest.fixture(scope="session")
def tight(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TightServer]:
    """The tight server, of which test_shutdown makes an end."""
    with TightServer(repository, tmp_path_factory.mktemp("tight")) as started:
        yield started


@pytest.fixture(scope="session")
def client(server: LocalServer) -> Iterator[VideoLlava]:
    with VideoLlava(server.grpc_url, timeout_seconds=120) as connected:
        yield connected


@pytest.fixture(scope="session")
def reference(checkpoint: Path) -> Reference:
    return Reference(checkpoint)


@pytest.fixture(scope="session")
def clip_path() -> Path:
    return CLIP


@pytest.fixture(scope="session")
def card_frames():
    """The clip's eight frames as the model card gets them."""
    return sample_like_the_model_card(CLIP)


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], bool]], None]:
    """Return `wait_for(condition)`: ask until it holds, at most half a minute."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.1)

    return wait
