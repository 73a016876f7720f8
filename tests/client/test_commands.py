"""The installed commands, before they have imported what they need."""

import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
from support.pythons import ROOT

COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_version(name):
    done = subprocess.run([ROOT / ".venv/bin" / name, "--version"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{name} {version('video-llava-triton')}\n")


@pytest.mark.parametrize(
    ("name", "missing", "extra"),
    [
        ("export", "transformers", "export"),
        ("gateway", "uvicorn", "gateway"),
        ("load", "gevent", "loadtest"),
        ("serve", "blake3", "serve"),
    ],
)
def test_without_its_extra_a_command_says_what_to_install(name, missing, extra):
    done = run(f"import sys, video_llava_commands; sys.modules['{missing}'] = None; video_llava_commands.{name}()")
    expected = f"video-llava-{name} needs {missing}: install this package with its extra [{extra}]\n"
    assert (done.returncode, done.stderr) == (2, expected)
