"""A few hundred of the cases that `make fuzz-requests` tries, the same ones each time."""

from pathlib import Path

import pytest
from support.scripts import load_script

FUZZER = load_script(Path(__file__).with_name("fuzz_requests.py"))


@pytest.mark.parametrize("name", FUZZER.PROPERTIES)
def test_it_is_refused_or_means_what_it_says(name):
    outcomes = FUZZER.run(name, 200)
    assert outcomes["seen"] >= 200
    # Neither answer comes by default.
    assert outcomes["refused"] > 20
    assert outcomes["accepted"] > 20
