"""A medium may be in a file, in bytes, in a pipe or in the caller's own object."""

import io
import os
import threading
import time

import numpy as np
import pytest
from PIL import Image
from video_llava_client import Clip, MediaError, MediaLimits, MediaNotFound, MediaTimedOut, MediaTooLarge, load_image
from video_llava_client.sources import name_of


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
