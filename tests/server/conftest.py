"""One server for the tests of this folder itself: a small random checkpoint on Triton and vLLM, in float32."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support import slow_steps
from support.collector import Collector
from support.export import FREE_PORTS, export, make_random_checkpoint
from support.reference import Reference, sample_like_the_model_card
from support.waiting import wait_until
from video_llava_client import VideoLlava
from video_llava_serve import LocalServer

CLIP = Path(__file__).parents[1] / "media" / "bikes.mp4"


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's model folder."""
    return export(checkpoint, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Where the server sends traces."""
    with Collector() as listening:
        yield listening


@pytest.fixture(scope="session")
def server(exported: Path, collector: Collector) -> Iterator[LocalServer]:
    with LocalServer(
        model=exported,
        overlay=slow_steps.OVERLAY,
        engine_arguments=slow_steps.ENGINE_ARGUMENTS,
        otlp_endpoint=collector.url,
        **FREE_PORTS,
    ) as running:
        yield running
    # Triton waits for requests in flight: had a test leaked one, the server would have been killed.
    assert running.stopped_cleanly


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Run a test once more, on a server started anew, if tritonserver itself crashed: Triton 24.10 rarely does so under
    load (SIGSEGV, or SIGABRT by boost's lock_exception)."""
    server = pyfuncitem.funcargs.get("server")
    try:
        return (yield)
    except BaseException:
        if not isinstance(server, LocalServer) or psutil.pid_exists(server.pid):
            raise
    pyfuncitem.config.get_terminal_writer().line(f"\ntritonserver crashed: {server.log_path}; once more")
    server.stop(urgently=True)
    server.start()
    pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames})
    return True


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
    """Return `wait_for(condition)`: ask until it holds, for a bounded time."""
    return wait_until
