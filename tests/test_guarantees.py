"""The table of guarantees in README.md names tests that exist."""

import re
from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_NAMED = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", _TESTS.joinpath("README.md").read_text(encoding="utf-8"))
_NAMES = sorted({pair for pair in _NAMED if Path(pair[0]).name.startswith("test_") and "/" in pair[0]})


def test_the_table_was_found():
    assert len(_NAMES) > 40


@pytest.mark.parametrize(("file", "name"), _NAMES)
def test_it_exists(file: str, name: str):
    text = _TESTS.joinpath(file).read_text(encoding="utf-8")
    assert f"def {name or 'test_'}" in text
