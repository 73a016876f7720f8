"""A few hundred of the cases that `make fuzz-requests` tries, the same ones each time."""

import importlib.util
from pathlib import Path

import pytest


def load_fuzzer():
    spec = importlib.util.spec_from_file_location("fuzz_requests", Path(__file__).with_name("fuzz_requests.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FUZZER = load_fuzzer()


@pytest.mark.parametrize("name", FUZZER.PROPERTIES)
def test_it_is_refused_or_means_what_it_says(name):
    outcomes = FUZZER.run(name, 200)
    assert outcomes["seen"] >= 200
    # Neither answer comes by default.
    assert outcomes["refused"] > 20
    assert outcomes["accepted"] > 20
