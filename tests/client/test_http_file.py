"""Videos on an HTTP server: read where needed, within bounds, and errors that say which server."""

import base64
import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from video_llava_client import (
    Clip,
    MediaLimits,
    MediaNotFound,
    MediaTimedOut,
    MediaTooLarge,
    UnreadableMedia,
    load_image,
)
from video_llava_client.limits import Budget


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files` under /parts/ with ranges, under /whole/ without, and misbehaves elsewhere."""

    protocol_version = "HTTP/1.1"
    server: Any

    def do_GET(self) -> None:
        kind, _, name = self.path.partition("?")[0].lstrip("/").partition("/")
        self.server.asked.append((self.path, dict(self.headers)))
        data = self.server.files.get(name)
        if kind == "away":
            self._answer(302, b"", {"Location": name.replace("!", "://")})
        elif data is None:
            self._answer(404, b"")
        elif kind == "parts":
            first = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
            self._answer(206, data[first:], {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})
        elif kind == "breaks":
            self._answer(200, data, send=len(data) // 2)
        elif kind == "stalls":
            self._answer(200, data, send=1000, wait=True)
        else:
            self._answer(200, data)

    def _answer(self, status, data, headers=None, *, send=None, wait=False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            for start in range(0, len(data) if send is None else send, 16384):
                self.wfile.write(data[start : start + 16384])
        except OSError:
            pass
        if wait:
            self.server.stopping.wait(10)
        if send is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


class Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stopping = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def server(bikes) -> Iterator[Server]:
    with Server() as server:
        server.files["bikes.mp4"] = bikes.read_bytes()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("kind", ["parts", "whole"])
def test_a_video_from_a_server(kind, server, bikes):
    clip = Clip.load(f"{server.url}/{kind}/bikes.mp4?signature=secret", size=56)
    assert np.array_equal(clip.frames, Clip.load(bikes, size=56).frames)
    assert clip.info.source == f"{server.url}/{kind}/bikes.mp4"
    assert server.asked[0][0].endswith("?signature=secret")


def test_only_what_is_needed_is_read(server, write_video, tmp_path, monkeypatch):
    num_read_bytes = []
    monkeypatch.setattr(Budget, "check_bytes", lambda _budget, num_bytes: num_read_bytes.append(num_bytes))
    path = write_video(tmp_path / "long.mov", 100, codec="rawvideo", pix_fmt="rgb24", size=(640, 480))
    server.files["long.mov"] = path.read_bytes()
    clip = Clip.load(f"{server.url}/parts/long.mov", size=56)
    assert np.array_equal(clip.frames, Clip.load(path, size=56).frames)
    # Eight of a hundred frames, the beginning and the end. (What the server sends depends on the system's buffers.)
    assert 0 < max(num_read_bytes) < path.stat().st_size // 4


def test_an_image_from_a_server(server, tmp_path):
    Image.fromarray(np.full((40, 50, 3), 77, np.uint8)).save(tmp_path / "photo.png")
    server.files["photo.png"] = (tmp_path / "photo.png").read_bytes()
    assert (load_image(f"{server.url}/parts/photo.png", size=32) == 77).all()


def test_the_name_and_password_of_an_address_are_sent_and_not_shown(server):
    url = server.url.replace("//", "//ann:w%40rd@")
    clip = Clip.load(f"{url}/parts/bikes.mp4", size=56)
    assert server.asked[0][1]["Authorization"] == f"Basic {base64.b64encode(b'ann:w@rd').decode()}"
    assert clip.info.source == f"{server.url}/parts/bikes.mp4"


def test_no_such_file(server):
    with pytest.raises(MediaNotFound, match=r"/parts/none\.mp4: the server has no such file \(HTTP 404\)"):
        Clip.load(f"{server.url}/parts/none.mp4", size=56)


@pytest.mark.parametrize("target", ["file!/etc/passwd", "ftp!127.0.0.1/clip.mp4"])
def test_a_server_cannot_send_the_client_elsewhere_than_http(target, server):
    with pytest.raises(UnreadableMedia, match="cannot be fetched"):
        Clip.load(f"{server.url}/away/{target}", size=56)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/clip.mp4", "http://[bad", "http:///clip.mp4"])
def test_no_server(url):
    with pytest.raises(UnreadableMedia, match=r"cannot be fetched \(.*\): check the address"):
        Clip.load(url, size=56)


def test_a_server_that_stalls(server):
    started = time.monotonic()
    with pytest.raises(MediaTimedOut, match=r"not decoded after 0\.3 s"):
        Clip.load(f"{server.url}/stalls/bikes.mp4", size=56, limits=MediaLimits(timeout_seconds=0.3))
    assert time.monotonic() - started < 10


def test_a_server_that_breaks_off(server):
    with pytest.raises(UnreadableMedia, match=r"cannot be fetched \(the connection ended \d+ bytes too early\)"):
        Clip.load(f"{server.url}/breaks/bikes.mp4", size=56)


@pytest.mark.parametrize("kind", ["parts", "whole"])
def test_downloads_are_bounded(kind, server):
    with pytest.raises(MediaTooLarge, match="max_bytes=10000"):
        Clip.load(f"{server.url}/{kind}/bikes.mp4", size=56, limits=MediaLimits(max_bytes=10_000))
