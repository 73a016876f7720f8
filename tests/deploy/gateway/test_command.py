"""The installed command."""

import json
import re
import signal
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import pytest
from deploy.gateway.helpers import BIKES, ask, text_part, video_part
from support.certificates import Authority
from support.pythons import ROOT
from support.waiting import wait_until
from video_llava_client.testing import FakeServer, Reply

COMMAND = ROOT / ".venv/bin/video-llava-gateway"


def run(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def serving(folder, *arguments):
    """Run the command; yield its process and its address."""
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen([COMMAND, "serve", "--port", "0", *arguments], stdout=out, stderr=err)
        try:
            running = re.compile(r"running on (https?://\S+)")
            wait_until(lambda: process.poll() is not None or bool(running.search((folder / "err").read_text())))
            found = running.search((folder / "err").read_text())
            assert found, (folder / "err").read_text()
            yield process, found[1]
        finally:
            process.kill()
            process.wait(20)


def test_a_key_serves_a_question_over_tls_until_sigterm(tmp_path, server):
    server.then(Reply("A cat jumps.", seconds_per_token=0.3))
    key, line = run("key", "joe").stdout.splitlines()
    (tmp_path / "keys.toml").write_text(line)
    authority = Authority("authority")
    signed = authority.sign("127.0.0.1")
    (tmp_path / "cert.pem").write_bytes(signed.certificate)
    (tmp_path / "key.pem").write_bytes(signed.key)
    options = ("--keys", tmp_path / "keys.toml", "--log-json", "--url", server.url)
    tls = ("--ssl-certfile", tmp_path / "cert.pem", "--ssl-keyfile", tmp_path / "key.pem")
    with serving(tmp_path, *map(str, (*options, *tls))) as (process, url):
        context = ssl.create_default_context(cadata=authority.certificate.decode())
        headers = {"authorization": f"Bearer {key.removeprefix('key: ')}"}
        with httpx.Client(base_url=url, verify=context, headers=headers, timeout=30) as client:
            body = ask(video_part(BIKES.read_bytes()), text_part("What?"), stream=True)
            with client.stream("POST", "/v1/chat/completions", json=body) as response:
                lines = response.iter_lines()
                assert next(lines).startswith("data: ")
                process.send_signal(signal.SIGTERM)
                time.sleep(0.2)
                assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert process.wait(20) == 0
    (entry,) = map(json.loads, (tmp_path / "out").read_text().splitlines())
    assert {name: entry[name] for name in ("key", "status", "stream", "media", "generated_tokens")} == {
        "key": "joe",
        "status": 200,
        "stream": True,
        "media": 1,
        "generated_tokens": 3,
    }


def test_without_keys_it_listens_on_this_machine_alone():
    for host in ("0.0.0.0", "::", "example.com"):
        refused = run("serve", "--host", host)
        assert refused.returncode == 2
        assert "without --keys this port would be open to everybody" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("options", "known", "unknown"),
    [
        ((), ("localhost:80", "LOCALHOST.", "127.0.0.1", "[::1]:8080", "10.1.2.3"), ("evil.example", "", "a b", "[")),
        (("--host-name", "*.a.org"), ("x.A.org:443", "localhost", "10.1.2.3"), ("a.org", "xa.org")),
        (("--no-keys",), ("evil.example", "gateway.video-llava"), ()),
        (("--no-keys", "--host-name", "a.org"), ("a.org",), ("evil.example",)),
    ],
)
def test_pages_whose_name_means_this_machine_are_refused(tmp_path, server, options, known, unknown):
    """DNS rebinding: such a page's requests have its own name as their Host."""
    with serving(tmp_path, "--url", server.url, *options) as (_, url):
        for hosts, status in ((known, 200), (unknown, 403)):
            for host in hosts:
                for path in ("/", "/v1/models", "/metrics"):
                    response = httpx.get(f"{url}{path}", headers={"host": host})
                    assert response.status_code == status, (host, path)
                    assert status == 200 or "--host-name" in response.json()["error"]["message"]


def test_keys_that_cannot_be_read(tmp_path):
    (tmp_path / "keys.toml").write_text("joe = 5")
    for path in (tmp_path / "keys.toml", tmp_path / "gone.toml"):
        refused = run("serve", "--keys", str(path))
        assert refused.returncode == 2
        assert "cannot be read" in " ".join(refused.stderr.split())
    assert run("key", "a b").returncode == 2


def test_several_replicas(tmp_path, server):
    with FakeServer() as other, serving(tmp_path, "--url", f"{server.url},{other.url}") as (_, url):
        for _ in range(4):
            assert httpx.post(f"{url}/v1/chat/completions", json=ask(text_part("What?"))).status_code == 200
        assert (len(server.requests), len(other.requests)) == (2, 2)
        other.stop()
        for _ in range(4):
            assert httpx.post(f"{url}/v1/chat/completions", json=ask(text_part("What?"))).status_code == 200
        assert len(server.requests) == 6


def test_no_torch():
    code = "import sys, video_llava_gateway.cli; assert not {'torch', 'vllm', 'fastapi', 'av'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
