"""Export a checkpoint, start a server and ask it about real files, as a user would.

Run by `make demo`. Each command is printed before it runs; its files stay in build/demo.
"""

import base64
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from video_llava_client import VideoLlava, build_prompt
from video_llava_serve import LocalServer, ServeError
from video_llava_serve._ports import choose_ports

ROOT = Path(__file__).parents[2]
CHECKPOINT = Path("tests/tiny/checkpoint")
BUILD = Path("build/demo")
MODELS, MEDIA = BUILD / "models", BUILD / "media"
MODEL_ID = "tiny"
REQUEST = BUILD / "request.json"

# float32 gives the reference's tokens. Eager mode: compiling so small a model takes longer than running it.
# 64 MB of KV cache are enough for it.
ENGINE_ARGUMENTS = '{"dtype": "float32", "enforce_eager": true, "kv_cache_memory_bytes": 67108864}'

QUESTIONS = (
    (("clip-1.mp4",), "What happens?"),
    (("clip-2.mp4",), "Describe the video."),
    (("clip-3.mp4",), "What happens?"),
    (("picture.jpg",), "Describe the image."),
    (("picture.jpg", "clip-1.mp4"), "In the image: What shape is it?"),
    (("pair.mp4",), "What is on the left?"),
)
CHAT = ("clip-1.mp4", ("What shape is it?", "Does it move right?"))


def main() -> None:
    """Run all steps."""
    shutil.rmtree(ROOT / BUILD, ignore_errors=True)
    say("Export a tiny Video-LLaVA that was trained on drawn shapes; each part is compared with the checkpoint:")
    run("video-llava-export", CHECKPOINT, "--into", MODELS, "--id", MODEL_ID, "--vllm-arguments", ENGINE_ARGUMENTS)

    say("Draw clips and a picture to ask about; the training never saw these combinations:")
    run("python", "-m", "tiny.draw", MEDIA, PYTHONPATH="tests")

    say("Start tritonserver with a vLLM engine (video-llava-serve does the same until you stop it):")
    with LocalServer(model=ROOT / MODELS / MODEL_ID, http_port=0, grpc_port=0, metrics_port=0, report=say) as server:
        say("Ask questions; the contact sheet shows the right answers:")
        for media, question in QUESTIONS:
            run("video-llava", "ask", *(MEDIA / name for name in media), question, "--url", server.grpc_url)
        say("Ask about the first clip again, now cached by the server, with the time of each stage:")
        run("video-llava", "ask", MEDIA / "clip-1.mp4", "Describe it.", "--url", server.grpc_url, "--stages")
        say("Ask two questions in one chat, with the Python client:\n")
        chat(server.grpc_url)
        say("Ask a question without a video, over HTTP:")
        body = '{"text_input": "USER: What is the capital of France? ASSISTANT:", "max_tokens": 20, "temperature": 0}'
        ask_over_http(f"http://{server.http_url}/v2/models/video_llava/generate", body)
        say("Ask through the gateway, as any program for OpenAI's API does; it decodes the clip:")
        with gateway(server.grpc_url) as url:
            ask_over_http(f"{url}/v1/chat/completions", chat_request("clip-1.mp4", "Describe the video."), REQUEST)
    say(f"The server is stopped. Start it again: .venv/bin/video-llava-serve --model {MODELS / MODEL_ID}")


def run(program: str, *arguments: object, **environment: str) -> None:
    """Print a command and run it with the programs of this environment."""
    command = [program, *map(str, arguments)]
    print("\n$", *(f"{name}={value}" for name, value in environment.items()), shlex.join(command), flush=True)
    command[0] = str(Path(sys.executable).parent / program)
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment, timeout=600)


def chat(url: str) -> None:
    """Ask the questions in one conversation."""
    name, questions = CHAT
    turns: list[tuple[str, str]] = []
    with VideoLlava(url) as client:
        clip = client.load(ROOT / MEDIA / name)
        for question in questions:
            prompt = build_prompt(question, num_videos=1, turns=turns)
            answer = client.ask(prompt=prompt, video=clip, max_tokens=32)
            turns.append((question, answer.text))
            print(f"  {question}\n  {answer.text}   ({answer.num_cached_tokens} positions from the cache)", flush=True)


@contextmanager
def gateway(triton_url: str) -> Iterator[str]:
    """Run a gateway on a free port; yield its address."""
    (port,) = choose_ports([("127.0.0.1", 0)])
    url = f"http://127.0.0.1:{port}"
    command = ["video-llava-gateway", "serve", "--url", triton_url, "--port", str(port)]
    print("\n$", shlex.join(command), "&", flush=True)
    process = subprocess.Popen([Path(sys.executable).with_name(command[0]), *command[1:]], stderr=subprocess.DEVNULL)
    try:
        wait_healthy(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=120)


def wait_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the gateway can answer; ServeError if it ends, or cannot within a minute."""
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError):
            return urllib.request.urlopen(f"{url}/health", timeout=10).close()
        time.sleep(0.2)
    raise ServeError(f"the gateway at {url} does not answer")


def chat_request(name: str, question: str) -> str:
    """Return the JSON of a question about a file, which is in it as text."""
    url = "data:video/mp4;base64," + base64.b64encode((ROOT / MEDIA / name).read_bytes()).decode()
    content = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": question}]
    return json.dumps({"messages": [{"role": "user", "content": content}], "temperature": 0})


def ask_over_http(url: str, body: str, file: Path | None = None) -> None:
    """Send what `curl` would send, from a file if one is named; curl need not be installed."""
    if file:
        (ROOT / file).write_text(body, encoding="utf-8")
    print(f"\n$ curl {url} --json {f'@{file}' if file else shlex.quote(body)}", flush=True)
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(answer.read().decode(), flush=True)


def say(text: str) -> None:
    """Print a line about the next step."""
    print(f"\n{text}" if text[0] != " " else text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ServeError, OSError, subprocess.CalledProcessError) as exc:
        sys.exit(f"demo: {exc}")
