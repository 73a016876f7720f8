"""The filter for Open WebUI, with stand-ins for the two classes of Open WebUI that it uses."""

import asyncio
import base64
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FILTER = Path("deploy/gateway/open_webui/video_filter.py")
VIDEO = {"id": "f1", "content_type": "video/mp4"}
NOTES = {"id": "f2", "content_type": "application/pdf"}


@pytest.fixture
def inlet(tmp_path, monkeypatch):
    async def find(file_id, user_id):
        return SimpleNamespace(path="stored") if (file_id, user_id) == ("f1", "joe") else None

    (tmp_path / "stored").write_bytes(b"a video")
    stand_ins = {
        "open_webui.models.files": {"Files": SimpleNamespace(get_file_by_id_and_user_id=find)},
        "open_webui.storage.provider": {"Storage": SimpleNamespace(get_file=lambda path: tmp_path / path)},
    }
    for name, content in stand_ins.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    spec = spec_from_file_location("video_filter", FILTER)
    assert spec and spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda body, user: asyncio.run(module.Filter().inlet(body, {"id": user}))


def body(*files):
    return {
        "files": list(files),
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "What happens?"},
            {"role": "assistant", "content": "A dog runs."},
            {"role": "user", "content": "And then?"},
        ],
    }


def test_a_video_becomes_part_of_the_first_question(inlet):
    result = inlet(body(VIDEO, NOTES), "joe")
    url = f"data:video/mp4;base64,{base64.b64encode(b'a video').decode()}"
    assert result["files"] == [NOTES]
    assert result["messages"][1]["content"] == [
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "text", "text": "What happens?"},
    ]
    assert result["messages"][3]["content"] == "And then?"


def test_other_chats_stay_as_they_are(inlet):
    assert inlet(body(NOTES), "joe") == body(NOTES)


def test_another_users_video_is_not_read(inlet):
    with pytest.raises(ValueError, match="the video f1 is not there, or another user's"):
        inlet(body(VIDEO), "ann")
