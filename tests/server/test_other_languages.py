"""What the README shows to clients in other languages: plain gRPC, and HTTP with curl."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "client" / "examples" / "plain_grpc"
QUESTION = "What happens?"
PROMPT = f"USER: <video>\n{QUESTION} ASSISTANT:"


@pytest.fixture(scope="module")
def clip(client, clip_path):
    return client.load(clip_path)


@pytest.fixture(scope="module")
def expected(client, clip):
    return client.ask(QUESTION, video=clip, max_tokens=256).text


def test_plain_grpc(server, clip, expected, tmp_path):
    for name in ("inference.proto", "ask.py"):
        shutil.copy(EXAMPLE / name, tmp_path)
    clip.frames.tofile(tmp_path / "frames.rgb")
    protoc = ["-m", "grpc_tools.protoc", "-I.", "--python_out=.", "--grpc_python_out=.", "inference.proto"]
    subprocess.run([sys.executable, *protoc], cwd=tmp_path, check=True, timeout=60)
    command = [sys.executable, "ask.py", server.grpc_url, QUESTION, "frames.rgb"]
    asked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (asked.stdout.strip(), asked.stderr) == (expected.strip(), "")


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_streams_a_text(server, client):
    url = f"http://{server.http_url}/v2/models/video_llava/generate_stream"
    body = {"text_input": "USER: What is a bicycle? ASSISTANT:", "stream": True, "max_tokens": 9, "temperature": 0}
    lines = curl(url, json.dumps(body)).splitlines()
    text = "".join(json.loads(line.removeprefix("data: "))["text_output"] for line in lines if line)
    assert text.strip() == client.ask("What is a bicycle?", max_tokens=9).text.strip()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_asks_for_the_limits(server):
    url = f"http://{server.http_url}/v2/models/intake/infer"
    answer = json.loads(curl(url, '{"inputs": [], "outputs": [{"name": "limits"}]}'))
    assert json.loads(answer["outputs"][0]["data"][0])["image_size"] == 56


def curl(url, body):
    asked = subprocess.run(["curl", "--silent", url, "-d", body], capture_output=True, text=True, timeout=60)
    return asked.stdout
