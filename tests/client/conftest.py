"""A fake server, clients of both kinds, and videos made on the spot."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client.helpers import Connected
from support import videos
from video_llava_client import AsyncVideoLlava, VideoLlava
from video_llava_client.testing import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def client(server: FakeServer) -> Iterator[VideoLlava]:
    with VideoLlava(server.url, timeout_seconds=20) as client:
        yield client


@pytest.fixture(params=[VideoLlava, AsyncVideoLlava])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Connected]]:
    """Makes a client of either kind; it is closed after the test."""
    clients: list[Connected] = []

    def make(url: Any, **options: Any) -> Connected:
        clients.append(Connected(request.param, url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def bikes() -> Path:
    return Path(__file__).parents[1] / "media" / "bikes.mp4"


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    return videos.write_video


@pytest.fixture(scope="session")
def write_sound() -> Callable[..., Path]:
    return videos.write_sound


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The input of a batch."""
    return tmp_path / "in.jsonl"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The output of a batch."""
    return tmp_path / "out.jsonl"
