"""Uploads that are broken on purpose. Each is refused; none harms anything but its own request."""

import asyncio
import base64
import io
import itertools
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from urllib.parse import urlsplit

import numpy as np
from deploy.gateway.helpers import BIKES
from PIL import Image

_BOUNDARY = "b"
_FORM = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nvision\r\n--{_BOUNDARY}\r\n'
    'Content-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
).encode()


def hostile_files() -> dict[str, bytes]:
    """Return files that are no video and no image that can be used."""
    bikes, noise = BIKES.read_bytes(), np.random.default_rng(0)
    picture = io.BytesIO()
    Image.fromarray(noise.integers(0, 256, (300, 400, 3), np.uint8)).save(picture, "PNG")
    return {
        "nothing": b"\0",
        "text": b"What is this?\n" * 1000,
        "zeros": bytes(2_000_000),
        "noise": noise.bytes(2_000_000),
        "a page": b"<!doctype html><html><body>" + b"<p>" * 100_000,
        "JSON": b"[" * 500_000,
        "the head of a video": bikes[:4000],
        "a video without its index": bikes[: len(bikes) // 2].replace(b"moov", b"free"),
        "a video with a wrong index": bikes.replace(b"stco", b"xxxx").replace(b"stsz", b"xxxx"),
        "a picture that is broken off": picture.getvalue()[:9000],
        "a picture with a wrong sum": picture.getvalue().replace(b"IHDR", b"IHDr"),
        "a picture of a thousand megapixels": _png(32_000, 32_000),
        "a thin picture": _png(100_000, 2),
        "a playlist": b"#EXTM3U\n#EXTINF:5,\nfile:///etc/passwd\n",
        "zip in zip": _zip(_zip(_zip(bytes(10_000_000)))),
    }


def _png(width: int, height: int) -> bytes:
    """Return a picture that says to be so large, and has no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)

    head = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", content)
    return file.getvalue()


def hostile_requests() -> Iterator[tuple[str, str, bytes]]:
    """Return path, type and body of requests that are refused."""
    as_json, multipart = "application/json", f"multipart/form-data; boundary={_BOUNDARY}"
    for content in hostile_files().values():
        for kind in ("video", "image"):
            url = f"data:{kind}/x;base64,{base64.b64encode(content).decode()}"
            part = {"type": f"{kind}_url", f"{kind}_url": {"url": url}}
            message = {"role": "user", "content": [part, {"type": "text", "text": "What?"}]}
            yield "/v1/chat/completions", as_json, json.dumps({"messages": [message]}).encode()
        frames = ",".join([base64.b64encode(content[:50_000]).decode()] * 8)
        part = {"type": "video_url", "video_url": {"url": f"data:video/jpeg;base64,{frames}"}}
        yield "/v1/frames", as_json, json.dumps(part).encode()
        # A form without an end.
        yield "/v1/files", multipart, _FORM + content
    for body in (b'{"messages":' + b"[" * 100_000, b"{" * 1000, b'"\xff"', b"", b"[1e999]"):
        yield "/v1/chat/completions", as_json, body


class Hostility:
    """Sends them, again and again.

    Args:
        url: Of a gateway.
        num_callers: How many at a time.
        pause_seconds: Of each, before its next one.

    Attributes:
        statuses: How many answers had which.
    """

    def __init__(self, url: str, *, num_callers: int = 8, pause_seconds: float = 0.1) -> None:
        self.statuses: Counter[int] = Counter()
        self.num_sent = 0
        self._address = urlsplit(url)
        self._num_callers = num_callers
        self._pause_seconds = pause_seconds
        self._requests = itertools.cycle(hostile_requests())

    async def run(self, number: int | None = None) -> None:
        """Send so many, or until this is cancelled. Of five, one is broken off in the middle."""
        left = itertools.count() if number is None else iter(range(number))

        async def send_some() -> None:
            for index in left:
                await self._send(*next(self._requests), is_whole=index % 5 != 0)
                self.num_sent += 1
                await asyncio.sleep(self._pause_seconds)

        async with asyncio.TaskGroup() as group:
            for _ in range(self._num_callers):
                group.create_task(send_some())

    async def _send(self, path: str, kind: str, body: bytes, *, is_whole: bool) -> None:
        reader, writer = await asyncio.open_connection(self._address.hostname, self._address.port)
        head = f"POST {path} HTTP/1.1\r\nHost: {self._address.netloc}\r\nConnection: close\r\nContent-Type: {kind}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[: None if is_whole else -1])
        try:
            if is_whole:
                self.statuses[int((await reader.readline()).split()[1])] += 1
                await reader.read()
            else:
                await writer.drain()
        finally:
            writer.close()
