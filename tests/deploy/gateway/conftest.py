"""A gateway on a real uvicorn, with a fake server behind it."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from deploy.gateway.helpers import RunningGateway
from video_llava_client.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def start(server: FakeServer) -> Iterator[Callable[..., RunningGateway]]:
    """Starts a gateway before `server`, or before other addresses."""
    started: list[RunningGateway] = []

    def start(url: str | None = None, **options: Any) -> RunningGateway:
        started.append(RunningGateway(url or server.url, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def gateway(start: Callable[..., RunningGateway]) -> RunningGateway:
    return start()
