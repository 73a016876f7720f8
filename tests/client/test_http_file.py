"""Videos on an HTTP server: read where needed, within bounds, and errors that say which server."""

import base64
import gzip
import http.server
import io
import random
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpcore2
import numpy as np
import pytest
from PIL import Image
from support.certificates import Authority
from video_llava_client import (
    Cancelled,
    Clip,
    DeadlineExceeded,
    MediaLimits,
    MediaNotFound,
    MediaRefused,
    MediaTimedOut,
    MediaTooLarge,
    SourcePolicy,
    UnreadableMedia,
    load_image,
    policy,
)
from video_llava_client.deadline import Deadline
from video_llava_client.http_client import _Stream
from video_llava_client.sources import open_media


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files`: /parts/ by ranges, /whole/ without; the other kinds misbehave."""

    protocol_version = "HTTP/1.1"
    server: Any

    def setup(self) -> None:
        super().setup()
        self.server.num_connections += 1

    def do_GET(self) -> None:
        # A proxy gets the whole address.
        path = "/" + self.path.split("/", 3)[3] if self.path.startswith("http://") else self.path
        kind, _, name = path.partition("?")[0].lstrip("/").partition("/")
        self.server.asked.append((self.path, dict(self.headers)))
        data = self.server.files.get(name, b"")
        if kind == "away":
            self._answer(302, b"", {"Location": name.replace("!", "://")})
        elif kind == "around":
            self._answer(302, b"", {"Location": self.path})
        elif kind == "silent":
            self.server.stopping.wait(10)
            self.close_connection = True
        elif kind == "drips-headers":
            self._drip(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 10_000)
        elif kind == "drips-away":
            self._drip(
                f"HTTP/1.1 302 Found\r\nLocation: {self.path}\r\nContent-Length: 0\r\n\r\n".encode(), seconds=0.001
            )
        elif not data:
            self._answer(404, b"")
        elif "Range" in self.headers and kind != "whole":
            getattr(self, f"_{kind.replace('-', '_')}", self._parts)(data)
        else:
            getattr(self, f"_{kind.replace('-', '_')}", self._whole)(data)

    def _parts(self, data: bytes, *, etag: str = '"1"', send: int | None = None, move: int = 0) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        last = min(last, len(data) - 1)
        announced = {"Content-Range": f"bytes {first + move}-{last + move}/{len(data)}", "ETag": etag}
        self._answer(206, data[first : last + 1], announced, send=send)

    def _whole(self, data: bytes) -> None:
        self._answer(200, data)

    def _greedy(self, data: bytes) -> None:
        """Sends more than was asked for."""
        first = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        self._answer(206, data[first:], {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})

    def _stingy(self, data: bytes) -> None:
        """Sends less than was asked for, and says so."""
        first = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
        part = data[first : first + 10_000]
        self._answer(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

    def _closes(self, data: bytes) -> None:
        """Closes each connection after one answer, without a word."""
        self._parts(data)
        self.close_connection = True

    def _sizeless(self, data: bytes) -> None:
        if "Range" not in self.headers:
            return self._whole(data)
        return self._answer(206, data[:1000], {"Content-Range": "bytes 0-999/*"})

    def _changes(self, data: bytes) -> None:
        self._parts(data, etag=f'"{len(self.server.asked)}"')

    def _weak(self, data: bytes) -> None:
        self._parts(data, etag=f'W/"{len(self.server.asked)}"')

    def _moves(self, data: bytes) -> None:
        self._parts(data, move=5)

    def _breaks_parts(self, data: bytes) -> None:
        self._parts(data, send=1000)

    def _stops(self, data: bytes) -> None:
        """Sends ranges only at first."""
        self._parts(data) if len(self.server.asked) == 1 else self._whole(data)

    def _shrinks(self, data: bytes) -> None:
        self._parts(data) if len(self.server.asked) == 1 else self._answer(416, b"", {"Content-Range": "bytes */9"})

    def _empty(self, _data: bytes) -> None:
        self._answer(416, b"", {"Content-Range": "bytes */0"})

    def _breaks(self, data: bytes) -> None:
        self._answer(200, data, send=len(data) // 2)

    def _stalls(self, data: bytes) -> None:
        self._answer(200, data, send=1000, wait=True)

    def _page(self, data: bytes) -> None:
        self._answer(200, data, {"Content-Type": "text/html; charset=utf-8"})

    def _text(self, data: bytes) -> None:
        self._answer(200, data, {"Content-Type": "text/plain"})

    def _packed(self, data: bytes) -> None:
        self._answer(200, gzip.compress(data), {"Content-Encoding": "gzip"})

    def _forbidden(self, _data: bytes) -> None:
        self._answer(403, b"")

    def _drips_whole(self, data: bytes) -> None:
        self._drip(f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\n\r\n".encode(), data)

    def _drips_parts(self, data: bytes) -> None:
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        head = f"HTTP/1.1 206 Partial\r\nContent-Length: {last + 1 - first}\r\n"
        head += f"Content-Range: bytes {first}-{last}/{len(data)}\r\n\r\n"
        self._drip(head.encode(), data[first : last + 1])

    def _drip(self, *texts: bytes, seconds: float = 0.03) -> None:
        """Send the last text one byte now and then."""
        *whole, dripping = texts
        with suppress(OSError):
            for text in whole:
                self.wfile.write(text)
            for byte in dripping:
                self.wfile.write(bytes([byte]))
                if self.server.stopping.wait(seconds):
                    break
        self.close_connection = len(whole) > 0

    def _answer(self, status, data, headers=None, *, send=None, wait=False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            for start in range(0, len(data) if send is None else send, 16384):
                self.server.num_sent_bytes += self.wfile.write(data[start : start + 16384])
        if wait:
            self.server.stopping.wait(10)
        if send is not None:
            self.close_connection = True

    def do_CONNECT(self) -> None:
        """Be the proxy to `tunnel_to`."""
        self.server.asked.append((self.path, dict(self.headers)))
        self.connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        with socket.create_connection(self.server.tunnel_to) as there:
            back = threading.Thread(target=pump, args=(there, self.connection))
            back.start()
            pump(self.connection, there)
            back.join()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class Server(http.server.ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.stopping = threading.Event()
        self.num_sent_bytes = self.num_connections = 0
        self.tunnel_to = ("", 0)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    @contextmanager
    def running(self) -> Iterator["Server"]:
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        with self:
            yield self
            self.stopping.set()
            self.shutdown()
        thread.join()


@pytest.fixture
def server(bikes) -> Iterator[Server]:
    with Server().running() as server:
        server.files["bikes.mp4"] = bikes.read_bytes()
        yield server


@pytest.fixture
def secure_server(bikes, tmp_path, monkeypatch) -> Iterator[Server]:
    """A server with TLS, whose authority the client knows."""
    authority = Authority("test")
    signed = authority.sign("127.0.0.1", "media.example")
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    (tmp_path / "server.pem").write_bytes(signed.certificate + signed.key)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")
    server = Server()
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = server.url.replace("http:", "https:")
    server.files["bikes.mp4"] = bikes.read_bytes()
    with server.running():
        yield server


@pytest.fixture
def names(monkeypatch) -> Counter[str]:
    """All names with a letter are on this machine; counts how often each was looked up."""
    looked_up, look_up = Counter(), socket.getaddrinfo

    def fake(host, *arguments, **options):
        looked_up[host] += 1
        return look_up("127.0.0.1" if host.endswith(".example") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", fake)
    return looked_up


@pytest.mark.parametrize("kind", ["parts", "whole", "greedy", "stingy", "closes", "sizeless", "weak"])
def test_a_video_from_a_server(kind, server, bikes):
    clip = Clip.load(f"{server.url}/{kind}/bikes.mp4?signature=secret", size=56)
    assert np.array_equal(clip.frames, Clip.load(bikes, size=56).frames)
    assert clip.info.source == f"{server.url}/{kind}/bikes.mp4"
    assert server.asked[0][0].endswith("?signature=secret")


@pytest.mark.parametrize("kind", ["parts", "whole", "greedy", "stingy"])
def test_any_reads_give_what_is_in_the_file(kind, server):
    chance = random.Random(0)
    data = chance.randbytes(700_000)
    server.files["noise.bin"] = data
    with open_media(f"{server.url}/{kind}/noise.bin", MediaLimits()) as media:
        file: Any = media.handle
        for _ in range(100):
            position, length = chance.randrange(len(data) + 10), chance.choice((1, 100, 40_000))
            assert file.seek(position) == position
            assert file.read(length) == data[position : position + length]
        assert file.seek(-5, io.SEEK_END) == len(data) - 5
        assert (file.read(), file.read(1)) == (data[-5:], b"")
    # The two others send what they like.
    assert kind not in ("parts", "whole") or server.num_sent_bytes <= len(data)


class Reads(io.RawIOBase):
    """A local file that notes which of its bytes are read."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.is_read = np.zeros(len(data), bool)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        num_bytes = self._file.readinto(buffer)
        self.is_read[start : start + num_bytes] = True
        return num_bytes


# Raw frames: a hundred of 90 KB. Of MKV all packets are read; of the others only those around eight frames.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mov", {"codec": "rawvideo", "pix_fmt": "rgb24", "size": (200, 150)}),
        ("gop.mp4", {"codec": "mpeg4", "g": "12", "qmax": "2", "size": (640, 480)}),
        ("one.mp4", {"codec": "mpeg4", "g": "250", "qmax": "2", "size": (640, 480)}),
        ("gop.mkv", {"codec": "mpeg4", "g": "12", "qmax": "2", "size": (640, 480)}),
    ],
)
def test_little_more_is_sent_than_needed_over_one_connection(name, options, server, write_video, tmp_path):
    data = write_video(tmp_path / name, 100, **options).read_bytes()
    assert len(data) > 1_000_000
    local: Any = Reads(data)
    expected = Clip.load(local, size=56)
    server.files[name] = data
    clip = Clip.load(f"{server.url}/parts/{name}", size=56)
    assert np.array_equal(clip.frames, expected.frames)
    assert server.num_sent_bytes <= min(1.2 * local.is_read.sum(), len(data))
    assert len(server.asked) < 50
    assert server.num_connections == 1


def test_an_image_from_a_server(server, tmp_path):
    Image.fromarray(np.full((40, 50, 3), 77, np.uint8)).save(tmp_path / "photo.png")
    server.files["photo.png"] = (tmp_path / "photo.png").read_bytes()
    assert (load_image(f"{server.url}/parts/photo.png", size=32) == 77).all()


def test_a_server_with_tls(secure_server, bikes, monkeypatch):
    url = f"{secure_server.url}/parts/bikes.mp4"
    assert np.array_equal(Clip.load(url, size=56).frames, Clip.load(bikes, size=56).frames)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(UnreadableMedia, match="certificate verify failed"):
        Clip.load(url, size=56)


def test_the_name_and_password_of_an_address_are_sent_and_not_shown(server):
    url = server.url.replace("//", "//ann:w%40rd@")
    clip = Clip.load(f"{url}/parts/bikes.mp4", size=56)
    assert server.asked[-1][1]["Authorization"] == f"Basic {base64.b64encode(b'ann:w@rd').decode()}"
    assert clip.info.source == f"{server.url}/parts/bikes.mp4"


def test_no_such_file(server):
    with pytest.raises(MediaNotFound, match=r"/parts/none\.mp4: the server has no such file \(HTTP 404\)"):
        Clip.load(f"{server.url}/parts/none.mp4", size=56)


@pytest.mark.parametrize("target", ["file!/etc/passwd", "ftp!127.0.0.1/clip.mp4"])
def test_a_server_cannot_send_the_client_elsewhere_than_http(target, server):
    with pytest.raises(UnreadableMedia, match="cannot be fetched"):
        Clip.load(f"{server.url}/away/{target}", size=56)


def test_redirects_are_followed_and_credentials_stay_with_their_host(server):
    with Server().running() as other:
        other.files = server.files
        there = other.url.replace("://", "!")
        url = server.url.replace("//", "//ann:word@")
        Clip.load(f"{url}/away//away/{there}/parts/bikes.mp4", size=56)
    assert ["Authorization" in headers for _, headers in server.asked] == [True, True]
    assert other.asked
    assert not any("Authorization" in headers for _, headers in other.asked)
    assert {path for path, _ in other.asked} == {"/parts/bikes.mp4"}


def test_a_circle_of_redirects_ends(server):
    with pytest.raises(MediaRefused, match="has more than 10 redirects"):
        Clip.load(f"{server.url}/around/bikes.mp4", size=56)
    assert len(server.asked) == 11


def test_a_redirect_from_https_to_http_is_refused(secure_server, server):
    there = server.url.replace("://", "!")
    with pytest.raises(MediaRefused, match="redirects from https to http"):
        Clip.load(f"{secure_server.url}/away/{there}/parts/bikes.mp4", size=56)
    assert not server.asked


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/clip.mp4",
        "http://[bad",
        "http:///clip.mp4",
        "http://a b/clip.mp4",
        "http://127.0.0.1:99999/clip.mp4",
        "http://good.example\\@127.0.0.1/clip.mp4",
        f"http://{'a' * 70}.example/clip.mp4",
    ],
)
def test_no_server(url):
    with pytest.raises(UnreadableMedia, match=r"cannot be fetched \(.*\): check the address"):
        Clip.load(url, size=56)


@pytest.mark.parametrize("end", ["/", "?", "#"])
@pytest.mark.usefixtures("names")
def test_the_host_that_is_asked_is_the_one_that_python_reads(end, server):
    port = server.server_port
    with pytest.raises(UnreadableMedia, match="cannot be fetched"):
        Clip.load(f"http://127.0.0.1:9{end}@127.0.0.1:{port}/parts/bikes.mp4", size=56)
    assert not server.asked
    Clip.load(f"http://a@b@media.example:{port}/parts/bikes.mp4", size=56)
    assert server.asked[0][1]["Host"] == f"media.example:{port}"


@contextmanager
def ends_soon(by: str) -> Iterator[tuple[MediaLimits, Deadline | None]]:
    """Yield limits and a deadline, of which one ends after 0.3 s or is cancelled then; check that it does."""
    sources = SourcePolicy(max_redirects=1000)
    limits = MediaLimits(timeout_seconds=0.3 if by == "limits" else None, sources=sources)
    deadline = None if by == "limits" else Deadline(0.3 if by == "deadline" else 60)
    if by == "cancel" and deadline:
        threading.Timer(0.3, deadline.cancel).start()
    started = time.monotonic()
    with pytest.raises({"limits": MediaTimedOut, "deadline": DeadlineExceeded, "cancel": Cancelled}[by]):
        yield limits, deadline
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("by", ["limits", "deadline", "cancel"])
def test_a_connection_that_comes_too_late_is_closed(by, server, monkeypatch):
    may_connect, closed = threading.Event(), threading.Event()
    connect, close = httpcore2.SyncBackend.connect_tcp, _Stream.close

    def connect_late(*arguments):
        assert may_connect.wait(10)
        return connect(*arguments)

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect_late)
    monkeypatch.setattr(_Stream, "close", lambda stream: (close(stream), closed.set()))
    with ends_soon(by) as (limits, deadline):  # noqa: SIM117
        with open_media(f"{server.url}/parts/bikes.mp4", limits, deadline=deadline):
            pass
    may_connect.set()
    assert closed.wait(10)


@pytest.mark.parametrize("kind", ["silent", "stalls", "drips-headers", "drips-whole", "drips-parts", "drips-away"])
@pytest.mark.parametrize("by", ["limits", "deadline", "cancel"])
def test_a_server_that_stalls_or_drips(kind, by, server):
    with ends_soon(by) as (limits, deadline):  # noqa: SIM117
        with open_media(f"{server.url}/{kind}/bikes.mp4", limits, deadline=deadline) as media:
            media.head(100_000)


@pytest.mark.parametrize("by", ["limits", "deadline", "cancel"])
def test_a_handshake_that_stalls(by):
    with socket.create_server(("127.0.0.1", 0)) as silent, ends_soon(by) as (limits, deadline):
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/a.mp4"
        with open_media(url, limits, deadline=deadline):
            pass


@pytest.mark.parametrize("by", ["limits", "deadline", "cancel"])
def test_a_look_up_that_stalls(by, monkeypatch):
    stopping = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: stopping.wait(10))
    with ends_soon(by) as (limits, deadline), open_media("http://media.example/a", limits, deadline=deadline):
        pass
    stopping.set()


def test_silent_servers_hold_up_no_local_file(server, bikes):
    def load():
        with suppress(UnreadableMedia):
            Clip.load(f"{server.url}/silent/bikes.mp4", size=56)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(server.asked) < 2:
        time.sleep(0.01)
    Clip.load(bikes, size=56)
    assert all(thread.is_alive() for thread in threads)
    server.stopping.set()
    for thread in threads:
        thread.join(timeout=20)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("breaks", r"cannot be fetched \(.*received \d+ bytes, expected \d+"),
        ("breaks-parts", r"cannot be fetched \(.*received \d+ bytes, expected \d+"),
        ("changes", "the file changed on the server while it was read"),
        ("shrinks", "the file changed on the server while it was read"),
        ("stops", "the server stopped sending ranges"),
        ("moves", r"asked for bytes from 0 on, the server sent 'bytes 5-32772/\d+'"),
        ("empty", "is empty: give another file"),
        ("packed", "the server sends it compressed, as gzip"),
        ("page", r"is a web page \(HTML\).*: give the address of the file itself"),
        ("forbidden", r"HTTP 403 Forbidden"),
    ],
)
def test_a_server_that_sends_something_else(kind, message, server):
    with pytest.raises(UnreadableMedia, match=message):
        Clip.load(f"{server.url}/{kind}/bikes.mp4", size=56)


@pytest.mark.parametrize("kind", ["parts", "whole", "sizeless"])
def test_downloads_are_bounded(kind, server):
    with pytest.raises(MediaTooLarge, match="max_bytes=10000"):
        Clip.load(f"{server.url}/{kind}/bikes.mp4", size=56, limits=MediaLimits(max_bytes=10_000))
    assert server.num_sent_bytes < 2_000_000


# --- what a policy allows


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"allow_addresses": False}, "addresses are not allowed: .* change SourcePolicy.allow_addresses"),
        ({"schemes": ("https",)}, "http addresses are not allowed: .* SourcePolicy.schemes"),
        ({"hosts": ("media.example",)}, "this host is not allowed: .* SourcePolicy.hosts"),
        ({"allow_private_networks": False}, "this host is not on the public Internet"),
        ({"content_types": ("video/*",)}, "the server sends 'text/plain', which is not allowed"),
    ],
)
def test_what_a_policy_forbids(rules, message, server):
    with pytest.raises(MediaRefused, match=message):
        Clip.load(f"{server.url}/text/bikes.mp4", size=56, limits=MediaLimits(sources=SourcePolicy(**rules)))


def test_a_policy_holds_for_redirects(server, monkeypatch):
    monkeypatch.setattr(policy, "is_public", lambda address: address == "127.0.0.1")
    limits = MediaLimits(sources=SourcePolicy.untrusted(content_types=None))
    Clip.load(f"{server.url}/away//parts/bikes.mp4", size=56, limits=limits)
    num_asked = len(server.asked)
    with pytest.raises(MediaRefused, match="not on the public Internet"):
        Clip.load(f"{server.url}/away/http!127.0.0.2:{server.server_port}/parts/bikes.mp4", size=56, limits=limits)
    assert len(server.asked) == num_asked + 1


def test_a_name_is_looked_up_once_for_each_connection(server, names):
    Clip.load(f"http://media.example:{server.server_port}/parts/bikes.mp4", size=56)
    assert names["media.example"] == server.num_connections == 1


@pytest.mark.parametrize(
    "host", ["127.1", "0x7f.1", "2130706433", "localhost", "[::1]", "[::ffff:127.0.0.1]", "①②⑦.0.0.1"]
)
def test_other_ways_to_write_this_machine(host):
    limits = MediaLimits(sources=SourcePolicy.untrusted(), timeout_seconds=10)
    with pytest.raises(MediaRefused, match="not on the public Internet"):
        Clip.load(f"http://{host}:9/a.mp4", size=56, limits=limits)


# --- proxies of the environment


@pytest.mark.usefixtures("names")
def test_a_proxy_of_the_environment(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url.replace("//", "//ann:word@"))
    Clip.load("http://media.example/parts/bikes.mp4", size=56)
    path, headers = server.asked[0]
    assert path == "http://media.example/parts/bikes.mp4"
    assert headers["Host"] == "media.example"
    assert headers["Proxy-Authorization"] == f"Basic {base64.b64encode(b'ann:word').decode()}"
    monkeypatch.setenv("no_proxy", "media.example")
    with pytest.raises(UnreadableMedia, match="cannot be fetched"):
        Clip.load("http://media.example:9/parts/bikes.mp4", size=56)


def test_a_tunnel_through_a_proxy(server, secure_server, bikes, monkeypatch):
    monkeypatch.setenv("https_proxy", server.url)
    server.tunnel_to = ("127.0.0.1", secure_server.server_port)
    clip = Clip.load("https://media.example/parts/bikes.mp4", size=56)
    assert np.array_equal(clip.frames, Clip.load(bikes, size=56).frames)
    assert [path for path, _ in server.asked] == ["media.example:443"]


@pytest.mark.usefixtures("names")
def test_behind_a_proxy_all_addresses_of_a_name_must_be_allowed(server, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    limits = MediaLimits(sources=SourcePolicy.untrusted())
    with pytest.raises(MediaRefused, match="not on the public Internet"):
        Clip.load("http://media.example/parts/bikes.mp4", size=56, limits=limits)
    assert not server.asked


def test_a_proxy_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("http_proxy", "127.0.0.1:9")
    with pytest.raises(UnreadableMedia, match=r"through the proxy 127\.0\.0\.1:9"):
        Clip.load("http://media.example/a.mp4", size=56)
