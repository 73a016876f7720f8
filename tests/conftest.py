"""Marks each test with its layer, by its folder; the fast layers run first."""

import gc
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
# The first of these that a test lies in decides; all others are unit tests.
_LAYERS = {
    "server/cluster": "cluster",
    "deploy/kubernetes/test_proxy.py": "cluster",
    "server": "server",
    "deploy/kubernetes/test_secure.py": "server",
    "deploy/local/test_lifecycle.py": "server",
    "deploy/local/test_security.py": "server",
    "deploy/local/test_serving.py": "server",
    "deploy/local/test_start.py": "server",
}
_ORDER = ("", "server", "cluster")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the marker `server` or `cluster`; run unit tests, then those on a server, then those on a cluster."""
    for item in items:
        if layer := _layer(item):
            item.add_marker(layer)
    items.sort(key=lambda item: _ORDER.index(_layer(item)))


def pytest_collection_finish() -> None:
    """Let no later garbage collection look through what the imports of torch and vLLM have made: a second each."""
    gc.freeze()


def pytest_unconfigure() -> None:
    gc.unfreeze()


def _layer(item: pytest.Item) -> str:
    path = item.path.relative_to(_TESTS)
    return next((layer for part, layer in _LAYERS.items() if path.is_relative_to(part)), "")
