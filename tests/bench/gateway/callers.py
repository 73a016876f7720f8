"""Who asks: this project's gRPC client, and a client of the gateway that costs next to nothing."""

import asyncio
import base64
import functools
import io
import itertools
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image
from video_llava_client import AsyncVideoLlava, Clip

_CLIP = Path(__file__).parents[2] / "media" / "bikes.mp4"
_QUESTION = "What happens in this video?"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """Seconds to the first piece of text, and to the end."""

    first: float
    whole: float


Ask = Callable[[], Awaitable[Answer]]


@dataclass(frozen=True)
class Question:
    """One question about frames that no server has seen: uint8 [8, height, width, 3], and a body with them as JPEG."""

    frames: np.ndarray
    num_tokens: int
    rate: int

    @classmethod
    def new(cls, size: int, *, num_tokens: int, rate: int) -> "Question":
        """Make one about natural pictures; with the engine's stand-in, `rate` tokens a second come (0: all at once)."""
        frames = _clip(size).copy()
        frames[:, :16, :16] = np.random.default_rng(next(_numbers)).integers(0, 256, (8, 16, 16, 3), np.uint8)
        return cls(frames, num_tokens, rate)

    @property
    def body(self) -> bytes:
        """The request to the gateway."""
        frames = ",".join(base64.b64encode(_jpeg(frame)).decode() for frame in self.frames)
        video = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
        content = [video, {"type": "text", "text": _QUESTION}]
        options = {"max_tokens": self.num_tokens, "ignore_eos": True, "stream": True, **self.sampling}
        return json.dumps({"messages": [{"role": "user", "content": content}], **options}).encode()

    @property
    def sampling(self) -> dict[str, Any]:
        """The seed is the stand-in's rate."""
        return {"temperature": 1, **({"seed": self.rate} if self.rate else {})}


def by_grpc(client: AsyncVideoLlava, question: Question) -> Ask:
    """Return what asks with the client."""

    async def ask() -> Answer:
        began = time.perf_counter()
        sampling = {**question.sampling, "ignore_eos": True}
        options: Any = {"max_tokens": question.num_tokens, "sampling": sampling}
        async with client.stream(_QUESTION, video=question.frames, **options) as stream:
            await anext(stream)
            first = time.perf_counter() - began
            await stream.until_done()
        return Answer(first, time.perf_counter() - began)

    return ask


def by_gateway(url: str, question: Question) -> Ask:
    """Return what asks the gateway."""
    body = question.body

    async def ask() -> Answer:
        began = time.perf_counter()
        reader, writer = await post(url, "/v1/chat/completions", body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError((status + await reader.read()).decode())
        await reader.readuntil(b"data: ")
        first, rest = time.perf_counter() - began, b""
        while piece := await reader.read(2**16):
            rest = (rest + piece)[-100:]
        writer.close()
        if b"[DONE]" not in rest:
            raise RuntimeError(f"an answer was cut off after {rest!r}")
        return Answer(first, time.perf_counter() - began)

    return ask


async def post(
    url: str, path: str, body: bytes, content_type: str = "application/json"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request on a connection of its own; return what reads the answer."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {path} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\nContent-Type: {content_type}\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return reader, writer


async def ask_all(asks: list[Ask], concurrency: int) -> list[Answer]:
    """Ask all, so many at a time."""
    left, answers = iter(asks), list[Answer]()

    async def session() -> None:
        for ask in left:
            answers.append(await ask())

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(session())
    return answers


@functools.cache
def _clip(size: int) -> np.ndarray:
    return Clip.load(_CLIP, size=size).frames


def _jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()
