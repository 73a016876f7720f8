"""What the gateway costs, beside the gRPC client, with a fake server that answers at once.

PYTHONPATH=tests .venv/bin/python tests/deploy/gateway/cost.py
"""

import argparse
import asyncio
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from deploy.gateway.helpers import ask, data_url, text_part
from PIL import Image
from support.waiting import wait_until
from video_llava_client import AsyncVideoLlava

SIZE = 224  # of the 7B
BIN = Path(sys.executable).parent
FAKE = f"""
import threading
from video_llava_client import ModelLimits
from video_llava_client.testing import FakeServer, Reply
limits = ModelLimits(image_size={SIZE}, num_frames=8, tokens_per_frame=257, tokens_per_image=256, max_model_len=4096)
script = lambda request: Reply("word " * request.sampling["max_tokens"], seconds_per_token=request.sampling["min_p"])
with FakeServer(script=script, limits=limits) as server:
    print(server.url, flush=True)
    threading.Event().wait()
"""


def started(stack: ExitStack, command: list[Any], folder: Path, pattern: str) -> tuple[psutil.Process, str]:
    """Start a process; return it and what it says first that matches."""
    log = folder / f"{len(list(folder.iterdir()))}.log"
    process = subprocess.Popen(command, stdout=log.open("w"), stderr=subprocess.STDOUT)
    stack.callback(process.wait)
    stack.callback(process.kill)
    wait_until(lambda: re.search(pattern, log.read_text()) is not None)
    found = re.search(pattern, log.read_text())
    assert found
    return psutil.Process(process.pid), found[1]


def new_frames(number: int) -> np.ndarray:
    tile = np.random.default_rng(number).integers(0, 256, (8, 14, 14, 3), np.uint8)
    return tile.repeat(16, axis=1).repeat(16, axis=2)


def as_request(frames: np.ndarray, **options: Any) -> bytes:
    """Return a body with JPEG frames."""

    def jpeg(pixels: np.ndarray) -> str:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=90)
        return data_url(file.getvalue()).partition(",")[2]

    url = "data:video/jpeg;base64," + ",".join(map(jpeg, frames))
    part = {"type": "video_url", "video_url": {"url": url}}
    return json.dumps(ask(part, text_part("What happens?"), stream=True, **options)).encode()


async def first_of_gateway(http: httpx.AsyncClient, body: bytes) -> float:
    begun, first = time.perf_counter(), 0.0
    async with http.stream("POST", "/v1/chat/completions", content=body) as response:
        assert response.status_code == 200, await response.aread()
        async for _ in response.aiter_raw():
            first = first or time.perf_counter() - begun
    return first


async def first_of_client(client: AsyncVideoLlava, frames: np.ndarray) -> float:
    begun = time.perf_counter()
    options: Any = {"sampling": {"min_p": 0.0}, "max_tokens": 2}
    async with client.stream("What happens?", video=frames, **options) as stream:
        await anext(stream)
        first = time.perf_counter() - begun
        await stream.until_done()
    return first


async def measure(http: httpx.AsyncClient, triton: str, gateway: psutil.Process, num_tokens: int, num: int) -> None:
    times: dict[str, list[float]] = {"grpc": [], "gateway": [], "gateway, known": []}
    async with AsyncVideoLlava(triton) as client:
        for number in range(num):
            frames = new_frames(number)
            body = as_request(frames, max_tokens=2, min_p=0.0)
            times["grpc"].append(await first_of_client(client, frames))
            times["gateway"].append(await first_of_gateway(http, body))
            times["gateway, known"].append(await first_of_gateway(http, body))
    for name, values in times.items():
        more = statistics.median(value - grpc for value, grpc in zip(values, times["grpc"], strict=True))
        print(f"TTFT {name:16} p50 {1000 * statistics.median(values):6.1f} ms, more than grpc {1000 * more:6.1f} ms")

    def cpu() -> float:
        return sum(sum(each.cpu_times()[:2]) for each in (gateway, *gateway.children(recursive=True)))

    for num_streams in (16, 64):
        body = as_request(new_frames(0), max_tokens=num_tokens, min_p=0.1)
        before, begun = cpu(), time.perf_counter()
        await asyncio.gather(*(first_of_gateway(http, body) for _ in range(num_streams)))
        tokens, seconds = num_streams * num_tokens, time.perf_counter() - begun
        spent = 1000 * (cpu() - before) / tokens
        print(f"{num_streams} streams: {tokens / seconds:.0f} tokens/s, CPU of the gateway {spent:.3f} ms/token")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=100)
    arguments, options = parser.parse_known_args()  # the others are the gateway's
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _, triton = started(stack, [sys.executable, "-c", FAKE], folder, r"(127\.0\.0\.1:\d+)")
        command = [BIN / "video-llava-gateway", "serve", "--port", "0", "--url", triton, *options]
        gateway, url = started(stack, command, folder, r"running on (\S+)")
        headers = {"content-type": "application/json"}

        async def run() -> None:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits) as http:
                await measure(http, triton, gateway, arguments.tokens, arguments.requests)

        asyncio.run(run())


if __name__ == "__main__":
    main()
