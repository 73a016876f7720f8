"""A medium may be in a file, in bytes, in a pipe or in the caller's own object."""

import base64
import io
import os
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import quote_from_bytes

import av
import numpy as np
import pytest
from PIL import Image
from video_llava_client import (
    Clip,
    MediaError,
    MediaLimits,
    MediaNotFound,
    MediaRefused,
    MediaTimedOut,
    MediaTooLarge,
    OptionError,
    SourcePolicy,
    UnreadableMedia,
    VideoLlavaError,
    is_image,
    load_image,
)
from video_llava_client.policy import is_public
from video_llava_client.sources import may_be_silent, name_of


@pytest.fixture(scope="module")
def frames(bikes):
    return Clip.load(bikes, size=56).frames


@pytest.fixture
def pipe():
    """An object to read, and what writes into it on another thread."""
    read_end, write_end = os.pipe()
    threads = []

    def write(data):
        def run():
            with os.fdopen(write_end, "wb") as file:
                file.write(data)

        threads.append(threading.Thread(target=run))
        threads[0].start()

    with os.fdopen(read_end, "rb") as file:
        yield file, write
        for thread in threads:
            thread.join()


class OnlyRead:
    """As little as an object can be."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def read(self, num_bytes):
        return self._file.read(num_bytes)


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, io.BytesIO, OnlyRead])
def test_bytes_and_objects(wrap, bikes, frames):
    clip = Clip.load(wrap(bikes.read_bytes()), size=56)
    assert np.array_equal(clip.frames, frames)
    assert clip.info.source == f"<{wrap.__name__}>"


def test_an_open_file_is_read_from_its_beginning_and_left_open(bikes, frames):
    with bikes.open("rb") as file:
        file.seek(1000)
        clip = Clip.load(file, size=56)
        assert np.array_equal(clip.frames, frames)
        assert clip.info.source == str(bikes)
        assert not file.closed


def test_a_pipe(pipe, bikes, frames):
    file, write = pipe
    write(bikes.read_bytes())
    assert np.array_equal(Clip.load(file, size=56).frames, frames)


def test_a_named_pipe(bikes, frames, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    thread = threading.Thread(target=lambda: path.write_bytes(bikes.read_bytes()))
    thread.start()
    assert np.array_equal(Clip.load(path, size=56).frames, frames)
    thread.join()


def test_a_silent_pipe_does_not_hang(pipe):
    file, write = pipe
    started = time.monotonic()
    with pytest.raises(MediaTimedOut, match=r"not decoded after 0\.2 s") as caught:
        Clip.load(file, size=56, limits=MediaLimits(timeout_seconds=0.2))
    assert time.monotonic() - started < 10
    assert isinstance(caught.value, TimeoutError)
    write(b"")


def test_an_endless_source_is_read_only_so_far():
    with pytest.raises(MediaTooLarge, match="/dev/zero: has more bytes, over the limit max_bytes=3000000"):
        Clip.load("/dev/zero", size=56, limits=MediaLimits(max_bytes=3_000_000))


class Broken:
    def read(self, _num_bytes):
        raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (io.StringIO(), MediaError, 'is open as text: open it with mode "rb"'),
        (3, MediaError, r"expected a path, bytes, .* got int"),
        (Broken(), MediaError, r"<Broken>: cannot be read .*the disk is gone"),
        ("a\0b", MediaNotFound, "check the name"),
        (tempfile.SpooledTemporaryFile(mode="w+"), UnreadableMedia, "cannot be read"),  # noqa: SIM115
        ({"bytes": None, "path": None}, MediaError, r"<dict>: expected a row with its file as `bytes` or `path`, got"),
        ({"url": "x"}, MediaError, r"expected a row .* got \['url'\]"),
        ("~nobody-here/clip.mp4", MediaNotFound, "there is no such user"),
        ("file://elsewhere/clip.mp4", MediaError, "is on another machine"),
        ("data:video/mp4;base64,AA*A", UnreadableMedia, r"data:video/mp4;base64,…: its base64 is damaged"),
        ("s3://bucket/clip.mp4", MediaError, r"s3://bucket/clip\.mp4: s3:// addresses are not read: give an http"),
        ("gs://bucket/clip.mp4", MediaError, "give an http"),
        ("hf://datasets/a/b.mp4", MediaError, "give an http"),
        ("ftp://ann:word@host/clip.mp4", MediaError, "^ftp://host/clip.mp4: ftp:// addresses are not read"),
        ("rtsp://camera/1", MediaError, "rtsp:// addresses are not read: record a part of it into a file"),
    ],
)
def test_what_cannot_be_read(source, error, message):
    with pytest.raises(error, match=message):
        Clip.load(source, size=56)


def test_names_with_a_colon_are_no_address(bikes, tmp_path, frames, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "12:30.mp4").symlink_to(bikes)
    assert np.array_equal(Clip.load("12:30.mp4", size=56).frames, frames)


def test_images_come_from_the_same_sources(tmp_path, pipe):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    file, write = pipe
    write(path.read_bytes())
    sources = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), file, Image.fromarray(pixels), pixels]
    images = [load_image(source, size=32) for source in sources]
    assert all(np.array_equal(image, images[0]) for image in images)


def test_secrets_of_an_address_are_not_shown():
    name = "https://media.example/clip.mp4"
    assert name_of("https://user:word@media.example/clip.mp4?signature=secret#part") == name


@pytest.mark.parametrize(
    "address",
    [
        lambda data: f"data:video/mp4;base64,{base64.b64encode(data).decode()}",
        lambda data: f"DATA:;base64,{base64.b64encode(data).decode().rstrip('=')}",
        lambda data: f"data:video/mp4;base64,{base64.encodebytes(data).decode()}",
        lambda data: f"data:video/mp4;base64,{quote_from_bytes(base64.b64encode(data), safe='')}",
        lambda data: f"data:video/mp4,{quote_from_bytes(data)}",
    ],
)
def test_data_addresses(address, bikes, frames):
    clip = Clip.load(address(bikes.read_bytes()), size=56)
    assert np.array_equal(clip.frames, frames)
    assert len(clip.info.source) < 30


@pytest.mark.parametrize("text", ["data:;base64," + "A" * 20_000, "data:," + "%41" * 11_000])
def test_data_addresses_are_bounded(text):
    with pytest.raises(MediaTooLarge, match=r"data:(;base64)?,…: has more bytes, over the limit max_bytes=10000"):
        Clip.load(text, size=56, limits=MediaLimits(max_bytes=10_000))


def test_home_and_file_addresses(bikes, frames, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my bikes?.mp4").symlink_to(bikes)
    for source in ("~/my bikes?.mp4", Path("~/my bikes?.mp4"), f"file://{tmp_path}/my%20bikes%3F.mp4"):
        assert np.array_equal(Clip.load(source, size=56).frames, frames)
    assert np.array_equal(Clip.load(f"file:{bikes}", size=56).frames, frames)
    assert np.array_equal(Clip.load(f"file://localhost{bikes}", size=56).frames, frames)
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (60, 60)).save(tmp_path / "frames" / "1.png")
    for source in ("~/frames", f"file://{tmp_path}/frames"):
        assert Clip.load(source, size=56).info.num_frames == 1
    (tmp_path / "~draft.mp4").symlink_to(bikes)
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(Clip.load("~draft.mp4", size=56).frames, frames)


def test_rows_of_a_data_set(bikes, frames):
    rows = ({"bytes": bikes.read_bytes(), "path": "a.mp4"}, {"bytes": None, "path": str(bikes)}, {"path": bikes})
    for row, name in zip(rows, ("a.mp4", str(bikes), str(bikes)), strict=True):
        clip = Clip.load(row, size=56)
        assert np.array_equal(clip.frames, frames)
        assert clip.info.source == name
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (9, 9, 9)).save(buffer, "PNG")
    assert (load_image({"bytes": buffer.getvalue(), "path": None}, size=32) == 9).all()


def test_what_may_be_silent(bikes, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    silent = ("http://media.example/a", {"path": "https://media.example/a"}, io.BytesIO(), tmp_path / "pipe")
    assert all(map(may_be_silent, silent))
    held = (bikes, str(bikes), f"file://{bikes}", {"path": str(bikes)}, {"bytes": b"a", "path": None}, b"a")
    assert not any(map(may_be_silent, (*held, "data:," + "a" * 100_000)))


PAGE = b"<html><head><title>Not found</title></head></html>"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (PAGE, r"a web page \(HTML\)"),
        (b"\xef\xbb\xbf\r\n  <!DOCTYPE html>\n<meta charset=utf-8>", r"a web page \(HTML\)"),
        (b'<?xml version="1.0"?><!-- a --><!DOCTYPE html PUBLIC "x"><HTML>', r"a web page \(HTML\)"),
        (b"#EXTM3U\n#EXTINF:10,\na.ts\n", r"a playlist \(M3U\)"),
        (b'<?xml version="1.0"?><MPD><Period/></MPD>', r"a playlist \(DASH\)"),
        (b"[playlist]\nFile1=a.mp4\n", r"a playlist \(PLS\)"),
        (b"ffconcat version 1.0\nfile a.mp4\n", r"a playlist \(concat\)"),
        (b"# mine\n\nfile 'a.mp4'\n", r"a playlist \(concat\)"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n", r"a description of a live stream \(SDP\)"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", r"a drawing \(SVG\)"),
        (b"%PDF-1.7\n", r"a document \(PDF\)"),
    ],
)
def test_what_is_no_medium_is_named(content, what, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    for source in (path, content, io.BytesIO(content)):
        for load in (Clip.load, load_image):
            with pytest.raises(UnreadableMedia, match=f": is {what}: "):
                load(source, size=56)


@pytest.mark.parametrize("options", [{}, {"movflags": "frag_keyframe+empty_moov"}, {"movflags": "faststart"}])
def test_an_encrypted_file_is_named(options, tmp_path):
    keys = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "7" * 32, "encryption_kid": "a" * 32}
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w", options=keys | options) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    with pytest.raises(UnreadableMedia, match=r"clip\.mp4: is encrypted: give a copy without copy protection"):
        Clip.load(path, size=56)


def test_an_encrypted_matroska_file_is_named(write_video, tmp_path):
    data = write_video(tmp_path / "clip.mkv", 10).read_bytes()
    # An element ContentEncodings with the settings of AES, at the end of the first track.
    encodings = bytes.fromhex("6d8098 624095 5031810 0 5032810 1 5033810 1 503586 47e1 8105 47e2 80".replace(" ", ""))
    tracks = data.index(bytes.fromhex("1654ae6b"))
    position = data.index(b"V_MPEG4", tracks)
    with pytest.raises(UnreadableMedia, match="is encrypted"):
        Clip.load(data[:position] + encodings + data[position:], size=56)


# --- what a policy allows


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (lambda path: path, "allow_paths"),
        (str, "allow_paths"),
        (lambda path: f"file://{path}", "allow_paths"),
        (lambda path: {"path": str(path)}, "allow_paths"),
        (lambda _: "~/clip.mp4", "allow_paths"),
        (lambda _: "/dev/zero", "allow_paths"),
        (lambda path: path.parent, "allow_paths"),
        (lambda _: "http://127.0.0.1:9/a.mp4", "allow_addresses"),
        (lambda _: "data:,a", "allow_addresses"),
        (lambda _: {"path": "https://media.example/a.mp4"}, "allow_addresses"),
    ],
)
def test_neither_paths_nor_addresses(source, field, bikes):
    limits = MediaLimits(sources=SourcePolicy(allow_paths=False, allow_addresses=False))
    with pytest.raises(MediaRefused, match=f"not allowed: give another source, or change SourcePolicy.{field}"):
        Clip.load(source(bikes), size=56, limits=limits)
    with pytest.raises(MediaRefused, match="not allowed"):
        is_image(source(bikes), limits=limits)


def test_what_a_program_holds_is_always_allowed(bikes, frames):
    limits = MediaLimits(sources=SourcePolicy(allow_paths=False, allow_addresses=False))
    with bikes.open("rb") as file:
        for source in (file, bikes.read_bytes(), {"bytes": bikes.read_bytes(), "path": "a.mp4"}):
            assert np.array_equal(Clip.load(source, size=56, limits=limits).frames, frames)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),  # of a provider's own network
        ("127.0.0.1", False),
        ("169.254.169.254", False),  # credentials of cloud machines
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::127.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::a00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:a00:1::1", False),
        ("2001:db8::1", False),
    ],
)
def test_public_addresses(address, expected):
    assert is_public(address) is expected


def test_hosts_of_a_policy():
    policy = SourcePolicy(hosts=("cdn.Example.com", "*.example.org", "192.0.2.1", "::1"))
    for host in ("cdn.example.com", "CDN.example.com.", "a.b.example.org", "192.0.2.1", "[::1]"):
        policy.check_host(host, source="x")
    for host in ("example.org", "badexample.org", "cdn.example.com.evil.net", "a.cdn.example.com", "192.0.2.10"):
        with pytest.raises(MediaRefused, match="this host is not allowed"):
            policy.check_host(host, source="x")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"schemes": ("ftp",)}, "schemes must be among http, https, data, got 'ftp'"),
        ({"hosts": "example.com"}, r"hosts must be several texts, such as \('example.com',\)"),
        ({"max_redirects": -1}, "max_redirects must be at least 0"),
    ],
)
def test_policies_that_mean_nothing(rules, message):
    with pytest.raises(OptionError, match=message):
        SourcePolicy(**rules)


LONG = "x" * 1_300_000


@pytest.mark.parametrize(
    "source",
    [
        LONG,
        f"data:video/mp4;base64,{LONG}*",
        f"data:{LONG},",
        f"s3://{LONG}",
        f"{'a' * 10_000}://x",
        f"file://{LONG}/a",
        f"http://127.0.0.1:9/{LONG}",
        f"http://{LONG}/",
        f"http://[{LONG}",
        f"~{LONG}/a",
        {"path": LONG},
        {LONG: 1},
        [LONG],
    ],
)
def test_no_message_is_longer_than_500_characters(source):
    for load in (Clip.load, load_image):
        with pytest.raises(VideoLlavaError) as caught:
            load(source, size=56)
        assert len(str(caught.value)) <= 500
