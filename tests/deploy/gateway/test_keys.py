"""API keys and what each may do."""

import logging

import httpx
import openai
import pytest
from deploy.gateway.helpers import ask, text_part
from support.waiting import wait_until
from video_llava_client.testing import Hang, Reply
from video_llava_gateway import keys as keys_module
from video_llava_gateway.keys import KeyFile, new_key

HELLO = ask(text_part("What?"))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.toml"


def add(file, name, options=""):
    key, sha256 = new_key()
    with file.open("a") as keys:
        keys.write(f'{name} = {{ sha256 = "{sha256}"{options} }}\n')
    return key


def post(gateway, key, body=HELLO):
    return gateway.post(body, headers={"Authorization": f"Bearer {key}"})


def test_only_callers_with_a_key_are_answered(start, server, file, caplog):
    caplog.set_level(logging.INFO, "video_llava_gateway.access")
    key = add(file, "joe")
    gateway = start(keys=file)
    answer = gateway.openai(key).chat.completions.create(model="", messages=HELLO["messages"])
    assert answer.choices[0].message.content
    assert server.requests[0].metadata["x-video-llava-caller"] == "joe"
    with pytest.raises(openai.AuthenticationError, match="this API key is not known"):
        gateway.openai("vl-wrong").models.list()
    for header in (b"", b"Bearer", b"Bearer \xff", f"Basic {key}".encode()):
        refused = httpx.get(f"{gateway.url}/v1/models", headers={b"Authorization": header})
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
    for path in ("/health", "/metrics", "/version"):
        assert httpx.get(f"{gateway.url}{path}").status_code == 200
    assert gateway.metric("requests_total", key="joe", status="200") == 1
    assert gateway.metric("requests_total", key="", status="401") == 5
    line = next(record.message for record in caplog.records if record.name == "video_llava_gateway.access")
    assert 'key="joe"' in line
    assert "status=200" in line
    assert key not in caplog.text


def test_the_file_may_change(start, file, monkeypatch, caplog):
    monkeypatch.setattr(keys_module, "_CHECK_SECONDS", 0.0)
    key = add(file, "joe")
    gateway = start(keys=file)
    other = add(file, "ann")
    assert post(gateway, other).status_code == 200
    # As an editor, or Kubernetes, writes it: another file under the same name.
    new = file.with_suffix(".new")
    ours = add(new, "eve")
    new.replace(file)
    assert [post(gateway, each).status_code for each in (key, other, ours)] == [401, 401, 200]
    file.write_text("eve = broken")
    assert post(gateway, ours).status_code == 200
    assert "the keys stay as they are" in caplog.text
    file.unlink()
    assert post(gateway, ours).status_code == 200


@pytest.mark.parametrize(
    "text",
    [
        "joe = 5",
        'joe = { sha256 = "short" }',
        f'joe = {{ sha256 = "{"0" * 64}", max_runing = 1 }}',
        f'joe = {{ sha256 = "{"0" * 64}", max_running = 0 }}',
        f'"a b" = {{ sha256 = "{"0" * 64}" }}',
        "joe",
    ],
)
def test_files_that_are_refused_at_the_start(file, text):
    file.write_text(text)
    with pytest.raises(ValueError, match=r"joe|a b|Expected"):
        KeyFile(file)


def test_requests_at_once(start, server, file):
    key = add(file, "joe", ", max_running = 1")
    other = add(file, "ann")
    gateway = start(keys=file)
    server.then(Hang(after_tokens=1))
    with httpx.stream(
        "POST",
        f"{gateway.url}/v1/chat/completions",
        json=HELLO | {"stream": True},
        headers={"Authorization": f"Bearer {key}"},
    ) as response:
        lines = response.iter_lines()
        assert next(lines)
        refused = post(gateway, key)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "key 'joe' has 1 requests at once" in refused.json()["error"]["message"]
        server.then(Reply())
        assert post(gateway, other).status_code == 200
    wait_until(lambda: post(gateway, key).status_code == 200)


def test_requests_a_minute(start, file, monkeypatch):
    key = add(file, "joe", ", max_per_minute = 2")
    gateway = start(keys=file)
    assert [post(gateway, key).status_code for _ in range(3)] == [200, 200, 429]
    refused = post(gateway, key)
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    # What is refused does not count.
    monkeypatch.setattr(keys_module, "_MINUTE", 0.0)
    assert post(gateway, key).status_code == 200


def test_bytes_of_a_request(start, file):
    key, other = add(file, "joe", ", max_body_bytes = 300"), add(file, "ann")
    gateway = start(keys=file, max_body_bytes=1000)
    sizes = {}
    for name, each in (("joe", key), ("ann", other)):
        for length in (10, 400, 2000):
            sizes[name, length] = post(gateway, each, ask(text_part("a" * length))).status_code
    assert sizes == {
        ("joe", 10): 200,
        ("joe", 400): 413,
        ("joe", 2000): 413,
        ("ann", 10): 200,
        ("ann", 400): 200,
        ("ann", 2000): 413,
    }
