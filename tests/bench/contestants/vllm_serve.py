"""`vllm serve` on its OpenAI endpoint with the twin of the checkpoint: eight images a prompt stand for eight frames.

The frames travel as PNG, which keeps their pixels; engine arguments and environment are the server's own.
"""

import asyncio
import base64
import io
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from PIL import Image
from video_llava_serve._ports import choose_ports

from ..checkpoints import Checkpoints
from ..environment import set_engine_environment
from ..load import QUESTION_TIMEOUT_SECONDS, Mark, run_all
from ..plan import Plan
from ..records import Result, Run
from ..shapes import NUM_FRAMES
from ..workloads import Question, frames_of

NAME = "vllm_serve"
_START_TIMEOUT_SECONDS = 300.0
_STOP_TIMEOUT_SECONDS = 30.0
_ADDRESS = "127.0.0.1"
_MODEL = "llava"
_SITE = Path(__file__).parents[1] / "vllm_site"


def run(checkpoints: Checkpoints, plan: Plan, *, log_path: Path | None = None) -> list[Result]:
    """All workloads on one server. Its log is in the folder of the checkpoints, unless `log_path` says where."""
    set_engine_environment(checkpoints)
    started = time.perf_counter()
    log_path = log_path or checkpoints.folder / "vllm_serve.log"
    with _server(checkpoints, log_path) as (process, url):
        _wait_ready(process, url, log_path)
        start_seconds = time.perf_counter() - started
        runs = asyncio.run(_run_all(url, process.pid, plan))
    return [Result(NAME, "LLaVA-1.5 of the same weights, 8 images a prompt", start_seconds, tuple(runs))]


@contextmanager
def _server(checkpoints: Checkpoints, log_path: Path) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    (port,) = choose_ports(((_ADDRESS, 0),))
    command = _command(checkpoints, port)
    print("$", *command, flush=True)
    with log_path.open("wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(_SITE)}
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            yield process, f"http://{_ADDRESS}:{port}"
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    # One that is still starting, when it is ended, leaves its engine's processes behind.
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, left = psutil.wait_procs(family, timeout=_STOP_TIMEOUT_SECONDS)
    for survivor in left:
        survivor.kill()
    process.wait()


def _command(checkpoints: Checkpoints, port: int) -> list[str]:
    return [
        # What `vllm serve` runs: the command itself asks for metadata that the package of vLLM's CPU build lacks.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        f"--model={checkpoints.llava}",
        f"--host={_ADDRESS}",
        f"--port={port}",
        f"--served-model-name={_MODEL}",
        f"--limit-mm-per-prompt={json.dumps({'image': NUM_FRAMES})}",
        f"--chat-template={checkpoints.chat_template}",
        "--chat-template-content-format=openai",
        *(_flag(name, value) for name, value in checkpoints.engine_arguments().items()),
    ]


def _flag(name: str, value: Any) -> str:
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{option}" if value else f"--no-{option}"
    return f"--{option}={json.dumps(value) if isinstance(value, dict) else value}"


def _wait_ready(process: "subprocess.Popen[bytes]", url: str, log_path: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    raise RuntimeError(f"vllm serve is not ready (exit code {process.poll()}): see {log_path}")


async def _run_all(url: str, pid: int, plan: Plan) -> list[Run]:
    timeout = aiohttp.ClientTimeout(total=QUESTION_TIMEOUT_SECONDS)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:

        async def ask(question: Question, num_tokens: int, mark: Mark) -> Mapping[str, float]:
            async with session.post("/v1/chat/completions", json=_body(question, num_tokens)) as response:
                if not response.ok:
                    raise RuntimeError(f"vllm serve: {response.status}: {await response.text()}")
                counts: dict[str, float] = {}
                async for line in response.content:
                    counts |= _take(line, mark)
            return counts

        return await run_all(NAME, ask, plan, pid=pid)


def _body(question: Question, num_tokens: int) -> dict[str, Any]:
    images = [] if question.clip is None else _image_parts(question.clip)
    text = ("\n" if images else "") + question.text
    return {
        "model": _MODEL,
        "messages": [{"role": "user", "content": [*images, {"type": "text", "text": text}]}],
        "max_tokens": num_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }


@cache
def _image_parts(clip: int) -> list[dict[str, Any]]:
    """Made once for all questions about it, as callers do."""
    return [_image_part(frame) for frame in frames_of(clip)]


def _image_part(frame: Any) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", compress_level=1)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": address}}


def _take(line: bytes, mark: Mark) -> dict[str, float]:
    """Read one line of the event stream; the last event has the counts."""
    if not line.startswith(b"data: {"):
        return {}
    event = json.loads(line[len(b"data: ") :])
    if "error" in event:
        raise RuntimeError(f"vllm serve: {event['error']}")
    for choice in event["choices"]:
        mark(len(choice.get("token_ids") or ()))
    return {"input_tokens": event["usage"]["prompt_tokens"]} if event.get("usage") else {}
