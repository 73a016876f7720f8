"""The fake server that comes with the client, and runs on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from video_llava_client.testing import FakeServer
from video_llava_load.load import Run, connected
from video_llava_load.scenario import Scenario


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture
def run(server: FakeServer) -> Callable[..., Run]:
    """Return `run(scenario)`: go through it on the fake server."""

    def run(wanted: Scenario, **options: Any) -> Run:
        with connected(wanted, {"url": server.url, "timeout_seconds": 30}) as load:
            return load.run(**options)

    return run


@pytest.fixture
def scenario_file(tmp_path: Path) -> Callable[[str], Path]:
    """Return `scenario_file(text)`, the file with that text."""

    def write(text: str) -> Path:
        file = tmp_path / "mine.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write
