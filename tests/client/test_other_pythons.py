"""The client with the oldest and the newest of its dependencies, on each Python that this machine has."""

import os
import re
import subprocess
import tomllib

import pytest
from support.pythons import ROOT, UV, find_python
from video_llava_client import Clip

CLIP = ROOT / "tests" / "media" / "bikes.mp4"
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
CODE = f"""
import functools, http.server, subprocess, threading
from video_llava_client import Clip, VideoLlava
from video_llava_client.testing import FakeServer, Reply
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory={str(CLIP.parent)!r})
files = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
threading.Thread(target=files.serve_forever, daemon=True).start()
clip = Clip.load(f"http://127.0.0.1:{{files.server_port}}/{CLIP.name}", size=56)
with FakeServer(Reply("Bikes.")) as server, VideoLlava(server.url) as client:
    print(client.ask("What?", video=clip).text, *clip.info.indices)
subprocess.run(["video-llava", "--help"], check=True, timeout=60, stdout=subprocess.DEVNULL)
"""


@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_a_clip_and_the_command_line(version, resolution, tmp_path):
    python = find_python(version)
    if python is None or not UV.exists():
        pytest.skip(f"no Python {version} on this machine")
    # The oldest of those with a wheel for this Python: nobody compiles NumPy to ask a question.
    wheels = [word for package in DEPENDENCIES for word in ("--no-build-package", re.split(r"\W", package)[0])]
    packages = [word for package in DEPENDENCIES for word in ("--with", package)]
    command = [UV, "run", "--no-project", "--isolated", "--python", python, "--resolution", resolution]
    done = subprocess.run(
        [*command, *wheels, *packages, "--with-editable", ROOT, "python", "-c", CODE],
        cwd=tmp_path,  # pyproject's overrides are the server's
        env=os.environ | {"UV_FIND_LINKS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    assert done.stdout.split() == ["Bikes.", *map(str, Clip.load(CLIP, size=56).info.indices)]
