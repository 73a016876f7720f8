"""A server with little room. Its tests run in the order of their files: the last one stops it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.small_server import SmallServer


@pytest.fixture(scope="session")
def small(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallServer]:
    with SmallServer(exported, tmp_path_factory.mktemp("small")) as started:
        yield started
