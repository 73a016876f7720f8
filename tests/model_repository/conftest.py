from collections.abc import Callable
from typing import Any

import pytest
from support import models


@pytest.fixture(scope="session")
def load() -> Callable[[str], Any]:
    """Return `load("vicuna.prompt")`: a module of a model's version folder."""
    return models.load
