"""The adapters under the Python of Triton's containers, without torch and vLLM: the GPU image has Python 3.12."""

import os
import subprocess
from pathlib import Path

import pytest
from support.pythons import ROOT, UV, find_python

PACKAGES = ("blake3", "click", "hypothesis", "numpy", "psutil", "pytest", "pytest-timeout", "tokenizers")
TESTS = ("test_relay.py", "test_intake.py", "test_drain.py", "test_repository.py", "test_vicuna.py")
# Those of test_vicuna.py and test_repository.py that need torch, or the installed commands.
LEFT_OUT = (
    "not one_request_too_many and not end_with_an_answer and not adapter_is_counted "
    "and not command and not arguments_that_are_none and not tritonserver"
)


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_adapters_run(version: str) -> None:
    python = find_python(version)
    if python is None or not UV.exists():
        pytest.skip(f"no Python {version} on this machine")
    packages = [word for package in PACKAGES for word in ("--with", package)]
    paths = [str(Path(__file__).with_name(test)) for test in TESTS]
    done = subprocess.run(
        [
            UV,
            "run",
            "--no-project",
            "--isolated",
            "--python",
            python,
            *packages,
            "pytest",
            "-q",
            "-k",
            LEFT_OUT,
            *paths,
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "deploy" / "server"), "UV_FIND_LINKS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
