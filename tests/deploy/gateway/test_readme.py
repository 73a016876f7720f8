"""The gateway's README says what the code does."""

import re
import shlex
from typing import Any

from deploy.gateway.helpers import BIKES
from support.pythons import ROOT
from video_llava_gateway.cli import app
from video_llava_gateway.file_store import FileStore
from video_llava_gateway.keys import Key

README = (ROOT / "deploy/gateway/README.md").read_text()


def test_the_python_examples(start, server, tmp_path, monkeypatch, capsys):
    (tmp_path / "clip.mp4").symlink_to(BIKES)
    monkeypatch.chdir(tmp_path)
    gateway = start(files=FileStore(tmp_path / "files", max_bytes=10**8, max_file_bytes=10**8))
    by_data, by_file = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    known: dict[str, Any] = {}
    exec(by_data.replace("http://localhost:8080", gateway.url), known)
    assert capsys.readouterr().out == "This is a fake answer."
    exec(by_file, known)
    assert gateway.post({"messages": [{"role": "user", "content": known["content"]}]}).status_code == 200
    first, second = server.requests
    assert first.metadata["x-video-llava-media-digest"] == second.metadata["x-video-llava-media-digest"]


def test_the_options_of_a_key():
    rows = README.partition("## Keys")[2].partition("## Limits")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)) == set(Key.model_fields)


def test_commands_and_options():
    group: Any = app
    params = [param for command in group.commands.values() for param in command.params]
    options = {each for param in params for each in (*param.opts, *param.secondary_opts)}
    assert set(re.findall(r"`(--[a-z-]+)", README)) <= options
    lines = [line for line in README.splitlines() if line.startswith("video-llava-gateway ")]
    assert len(lines) == 3
    for line in lines:
        _, name, *words = shlex.split(line, comments=True)
        group.commands[name].make_context(name, words, resilient_parsing=True)
