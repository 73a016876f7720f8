"""The whole way once, as a user would go it: a checkpoint, its export, a real server, questions about real files.

Run by `make demo`. Each command is printed before it runs; what it makes stays in build/demo.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from video_llava_client import VideoLlava, build_prompt
from video_llava_serve import LocalServer, ServeError

ROOT = Path(__file__).parents[2]
CHECKPOINT = Path("tests/tiny/checkpoint")
BUILD = Path("build/demo")
MODELS, MEDIA = BUILD / "models", BUILD / "media"

# float32, for the reference's own tokens. Eager, since compiling a model this small takes longer than running it.
# 64 MB of KV cache are plenty for it.
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
    """Export, draw, serve, ask."""
    shutil.rmtree(ROOT / BUILD, ignore_errors=True)
    say("A tiny Video-LLaVA, trained on drawn shapes. Its parts as Triton loads them, each compared with it:")
    run("video-llava-export", CHECKPOINT, "--into", MODELS, "--vllm-arguments", ENGINE_ARGUMENTS)

    say("Clips and a picture to ask about; none of these combinations was in its training:")
    run("python", "-m", "video_llava_tiny.draw", MEDIA)

    say("A real tritonserver with a real vLLM engine (video-llava-serve does the same until you stop it):")
    with LocalServer(repository=ROOT / MODELS, http_port=0, grpc_port=0, metrics_port=0, report=say) as server:
        say("Questions; check the answers by the contact sheet:")
        for media, question in QUESTIONS:
            run("video-llava", "ask", *(MEDIA / name for name in media), question, "--url", server.grpc_url)
        say("The first clip again, now in the server's caches, with the time of each stage:")
        run("video-llava", "ask", MEDIA / "clip-1.mp4", "Describe it.", "--url", server.grpc_url, "--stages")
        say("Two turns about one clip, through the Python client:\n")
        chat(server.grpc_url)
        say("A question without a video, over HTTP:")
        body = '{"text_input": "USER: What is the capital of France? ASSISTANT:", "max_tokens": 20, "temperature": 0}'
        ask_over_http(f"http://{server.http_url}/v2/models/video_llava/generate", body)
    say(f"The server is stopped. To go on: .venv/bin/video-llava-serve --repository {MODELS}")


def run(program: str, *arguments: object) -> None:
    """Print a command and run it with the environment's own programs."""
    print(f"\n$ {shlex.join([program, *map(str, arguments)])}", flush=True)
    subprocess.run([Path(sys.executable).parent / program, *map(str, arguments)], check=True, cwd=ROOT, timeout=600)


def chat(url: str) -> None:
    """Ask one question after the other, each with what was said before."""
    name, questions = CHAT
    turns: list[tuple[str, str]] = []
    with VideoLlava(url) as client:
        clip = client.load(ROOT / MEDIA / name)
        for question in questions:
            prompt = build_prompt(question, num_videos=1, turns=turns)
            answer = client.ask(prompt=prompt, video=clip, max_tokens=32)
            turns.append((question, answer.text))
            print(f"  {question}\n  {answer.text}   ({answer.num_cached_tokens} positions from the cache)", flush=True)


def ask_over_http(url: str, body: str) -> None:
    """Ask as `curl` does, which need not be installed."""
    print(f"\n$ curl {url} -d {shlex.quote(body)}", flush=True)
    script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], sys.argv[2].encode(), 60).read().decode())"
    subprocess.run([sys.executable, "-c", script, url, body], check=True, timeout=120)


def say(text: str) -> None:
    """Tell what happens."""
    print(f"\n{text}" if text[0] != " " else text, flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ServeError, subprocess.CalledProcessError) as exc:
        sys.exit(f"demo: {exc}")
