"""Files from strangers are decoded in other processes, each with limits; every guard is shown with harmless files."""

import asyncio
import gzip
import http.server
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from video_llava_client import (
    AsyncVideoLlava,
    Cancelled,
    Clip,
    DeadlineExceeded,
    DecoderProcesses,
    MediaLimits,
    MediaNotFound,
    MediaTimedOut,
    MediaTooLarge,
    NoFrames,
    NoVideoStream,
    OptionError,
    StateError,
    UnreadableMedia,
    VideoLlava,
    is_image,
    load_image,
)
from video_llava_client.cli import app
from video_llava_client.deadline import Deadline
from video_llava_client.images import load_images
from video_llava_client.loading import Loading

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
SIZE = 56
BIKES = Path(__file__).parents[1] / "media/bikes.mp4"


def png():
    file = io.BytesIO()
    Image.new("RGB", (200, 200)).save(file, "PNG")
    return file.getvalue()


PNG = png()


@pytest.fixture(scope="module")
def decoders():
    with DecoderProcesses(2) as processes:
        yield processes


@pytest.fixture(scope="session")
def large_picture(tmp_path_factory):
    """60 megapixels, which take 180 MB and some tenths of a second."""
    path = tmp_path_factory.mktemp("large") / "large.jpg"
    Image.new("RGB", (8000, 7500), "green").save(path)
    return path


def pids(decoders):
    return {process._process.pid for process in decoders._processes}


def is_running(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def wait_until(condition, seconds=10.0):
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@contextmanager
def in_thread(work):
    """Run `work` while the block runs; yields a list that gets what it raised or returned."""
    outcome = []

    def run():
        try:
            outcome.append(work())
        except BaseException as exc:  # noqa: BLE001
            outcome.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    yield outcome
    thread.join(30)
    assert not thread.is_alive()


def stopped(decoders):
    """Stop the only process of `decoders`, which is idle, as one that hangs; return its id."""
    (pid,) = pids(decoders)
    os.kill(pid, signal.SIGSTOP)
    return pid


def served(path):
    """Return a server of one file, without ranges."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(path.stat().st_size))
            self.end_headers()
            self.wfile.write(path.read_bytes())

        def log_message(self, *_):  # pyright: ignore[reportIncompatibleMethodOverride]
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)


# The same pictures, from every kind of source.


def test_a_path_from_another_folder(decoders, bikes, monkeypatch):
    monkeypatch.chdir(bikes.parent)
    here, there = (Clip.load("bikes.mp4", size=SIZE, decoders=each) for each in (None, decoders))
    assert there.info == here.info
    assert there.info.source == "bikes.mp4"
    assert np.array_equal(there.frames, here.frames)
    there.frames[0] = 0  # as one's own array


def test_a_part(decoders, bikes):
    here, there = (
        Clip.load(bikes, size=SIZE, start_seconds=2, end_seconds=4.5, decoders=each) for each in (None, decoders)
    )
    assert there.info == here.info
    assert np.array_equal(there.frames, here.frames)


def spooled(data):
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(data)
    return file


@pytest.mark.parametrize(
    "source",
    [
        lambda path: path.read_bytes(),
        lambda path: memoryview(path.read_bytes()),
        lambda path: path.open("rb"),
        lambda path: path.open("rb", buffering=0),
        lambda path: spooled(path.read_bytes()),
        lambda path: io.BufferedReader(io.BytesIO(path.read_bytes())),  # pyright: ignore[reportArgumentType]
        lambda path: gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(path.read_bytes()))),
        lambda path: os.fdopen(_written_pipe(path.read_bytes()), "rb"),
    ],
    ids=["bytes", "memoryview", "file", "unbuffered", "temporary", "object", "gzip", "pipe"],
)
def test_bytes_files_and_pipes(source, decoders, bikes):
    opened = source(bikes)
    clip = Clip.load(opened, size=SIZE, decoders=decoders)
    assert np.array_equal(clip.frames, Clip.load(bikes, size=SIZE).frames)
    if hasattr(opened, "close"):
        assert not opened.closed
        opened.close()


def _written_pipe(data):
    read_end, write_end = os.pipe()

    def write():
        with os.fdopen(write_end, "wb") as file:
            file.write(data)

    threading.Thread(target=write).start()
    return read_end


def test_an_address_is_fetched_here(decoders, bikes):
    with served(bikes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        clip = Clip.load(f"http://127.0.0.1:{server.server_port}/v.mp4", size=SIZE, decoders=decoders)
        server.shutdown()
    assert np.array_equal(clip.frames, Clip.load(bikes, size=SIZE).frames)


def test_images(decoders, tmp_path):
    path = tmp_path / "a.png"
    Image.effect_noise((100, 70), 80).convert("RGB").save(path)
    array = np.asarray(Image.open(path))
    for source in (path, path.read_bytes(), array, Image.open(path)):
        there = load_image(source, size=SIZE, decoders=decoders)
        assert np.array_equal(there, load_image(path, size=SIZE))
    assert is_image(path, decoders=decoders)


def test_small_pictures_are_decoded_together(monkeypatch):
    sizes, lengths = [(100, 70), (60, 90), (64, 64)] * 3, []
    images = [Image.effect_noise(size, 80).convert("RGB") for size in sizes]
    contents = [_encoded(image, "JPEG") for image in images]
    large = _encoded(Image.effect_noise((600, 500), 80), "PNG")
    load = DecoderProcesses.load_images
    monkeypatch.setattr(
        DecoderProcesses, "load_images", lambda *args, **more: lengths.append(more["lengths"]) or load(*args, **more)
    )
    sources = [*contents[:5], large, np.asarray(images[0]), *contents[5:]]
    with DecoderProcesses(1) as decoders:
        there = load_images(sources, size=SIZE, loading=Loading(decoders=decoders))
        assert np.array_equal(there, load_images(sources, size=SIZE, loading=Loading()))
        assert [len(each) for each in lengths] == [4, 0, 0, 4]
        for bad, message in (
            (contents[0][:500], "cannot be read"),
            (b"<!doctype html><html>", "web page"),
            (b"", "read"),
        ):
            with pytest.raises(UnreadableMedia, match=message):
                load_images([*contents[:2], bad, contents[3]], size=SIZE, loading=Loading(decoders=decoders))


def _encoded(image, form):
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


def test_frames_and_clips_are_not_sent(bikes):
    with DecoderProcesses(1) as decoders:
        Clip.load(np.zeros((8, 70, 60, 3), np.uint8), size=SIZE, decoders=decoders)
        Clip.load(Clip.load(bikes, size=70), size=SIZE, decoders=decoders)
        assert not pids(decoders)


# The same errors.


@pytest.mark.parametrize(
    ("make", "options", "kind"),
    [
        (lambda path: path, {}, MediaNotFound),
        (lambda path: path.write_bytes(b"no video" * 100) and path, {}, UnreadableMedia),
        (lambda path: path.write_bytes(b"no video" * 100) and path.read_bytes(), {}, UnreadableMedia),
        (
            lambda _: Path(__file__).parents[1] / "media/bikes.mp4",
            {"limits": MediaLimits(max_pixels=99)},
            MediaTooLarge,
        ),
        (lambda _: Path(__file__).parents[1] / "media/bikes.mp4", {"start_seconds": 60}, NoFrames),
    ],
)
def test_errors_are_those_of_this_process(make, options, kind, decoders, tmp_path):
    source, raised = make(tmp_path / "a.mp4"), []
    for each in (None, decoders):
        with pytest.raises(kind, match=r"a\.mp4|bikes\.mp4|<bytes>") as caught:
            Clip.load(source, size=SIZE, decoders=each, **options)
        raised.append((type(caught.value), str(caught.value), caught.value.source))
    assert raised[0] == raised[1]


def test_no_video_stream(decoders, write_sound, tmp_path):
    with pytest.raises(NoVideoStream, match=r"s\.m4a: holds no video stream"):
        Clip.load(write_sound(tmp_path / "s.m4a"), size=SIZE, decoders=decoders)


def test_warnings_of_python_are_given_here(decoders, tmp_path):
    Image.fromarray(np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)).save(tmp_path / "deep.tiff")
    for each in (None, decoders, decoders):
        with pytest.warns(UserWarning, match=r"deep\.tiff") as caught:
            load_image(tmp_path / "deep.tiff", size=SIZE, decoders=each)
        assert len(caught) == 1


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError("the disk is gone"), UnreadableMedia, r"<Failing>: cannot be read \(the disk is gone\)"),
        (DeadlineExceeded("too late"), DeadlineExceeded, "^too late$"),  # as of a download
    ],
)
def test_a_file_object_that_fails(error, kind, message, decoders, bikes):
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1):
            if self.tell() > 100_000:
                raise error
            return super().read(size)

    with pytest.raises(kind, match=message):
        Clip.load(Failing(bikes.read_bytes()), size=SIZE, decoders=decoders)
    Clip.load(bikes, size=SIZE, decoders=decoders)


@pytest.mark.parametrize("value", [{"num_processes": 0}, {"max_memory_bytes": -1}, {"max_cpu_seconds": 0}])
def test_limits_are_above_zero(value):
    with pytest.raises(OptionError, match=f"DecoderProcesses: {next(iter(value))} must be above 0"):
        DecoderProcesses(**value)


# Each limit, and that the next file is decoded.


def test_memory(large_picture):
    with DecoderProcesses(1, max_memory_bytes=64 * 2**20) as decoders:
        message = r"large\.jpg: needs more than 64 MiB of memory: give .* or raise max_memory_bytes of DecoderProcesses"
        with pytest.raises(MediaTooLarge, match=message) as caught:
            load_image(large_picture, size=SIZE, decoders=decoders)
        assert caught.value.source == str(large_picture)
        load_image(PNG, size=SIZE, decoders=decoders)
    with DecoderProcesses(1) as decoders:
        load_image(large_picture, size=SIZE, decoders=decoders)


def test_cpu_time(large_picture):
    with DecoderProcesses(1, max_cpu_seconds=0.1) as decoders:
        message = r"large\.jpg: not decoded after 0\.1 s of CPU time: .* raise max_cpu_seconds of DecoderProcesses"
        with pytest.raises(MediaTimedOut, match=message):
            load_image(large_picture, size=SIZE, decoders=decoders)
        # It counts for each file anew.
        for _ in range(100):
            load_image(PNG, size=SIZE, decoders=decoders)


def test_time_in_a_process_that_hangs(bikes):
    with DecoderProcesses(1) as decoders:
        Clip.load(bikes, size=SIZE, decoders=decoders)
        pid = stopped(decoders)
        started = time.monotonic()
        with pytest.raises(
            MediaTimedOut, match=r"bikes\.mp4: not decoded after 0\.3 s: .* MediaLimits\.timeout_seconds"
        ):
            Clip.load(bikes, size=SIZE, limits=MediaLimits(timeout_seconds=0.3), decoders=decoders)
        assert 0.3 < time.monotonic() - started < 10
        assert not is_running(pid)
        Clip.load(bikes, size=SIZE, decoders=decoders)


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_the_deadline_of_the_request_counts_too(is_cancelled, bikes):
    with DecoderProcesses(1) as decoders:
        Clip.load(bikes, size=SIZE, decoders=decoders)
        pid = stopped(decoders)
        deadline = Deadline(30 if is_cancelled else 0.3)
        loading = Loading(deadline=deadline, decoders=decoders)
        with in_thread(lambda: load_images([bikes], size=SIZE, loading=loading)) as outcome:
            wait_until(lambda: decoders._free.empty())
            if is_cancelled:
                deadline.cancel()
        assert isinstance(outcome[0], Cancelled if is_cancelled else DeadlineExceeded)
        assert not is_running(pid)


def test_waiting_for_a_process_counts(bikes):
    with DecoderProcesses(1) as decoders:
        Clip.load(bikes, size=SIZE, decoders=decoders)
        stopped(decoders)
        slow = MediaLimits(timeout_seconds=2)
        with in_thread(lambda: Clip.load(bikes, size=SIZE, limits=slow, decoders=decoders)) as outcome:
            wait_until(lambda: decoders._free.empty())
            with pytest.raises(MediaTimedOut, match=r"not decoded after 0\.2 s"):
                Clip.load(bikes, size=SIZE, limits=MediaLimits(timeout_seconds=0.2), decoders=decoders)
        assert isinstance(outcome[0], MediaTimedOut)


@pytest.mark.parametrize(
    ("number", "advice"), [(signal.SIGKILL, "if the machine has no memory"), (signal.SIGSEGV, "give another copy")]
)
def test_a_crash_fails_one_file(number, advice, bikes):
    with DecoderProcesses(2) as decoders:
        Clip.load(bikes, size=SIZE, decoders=decoders)
        pid = stopped(decoders)
        with in_thread(lambda: Clip.load(bikes, size=SIZE, decoders=decoders)) as outcome:
            wait_until(lambda: decoders._free.qsize() == 1)
            other = Clip.load(bikes, size=SIZE, decoders=decoders)
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
        assert isinstance(outcome[0], UnreadableMedia)
        assert f"bikes.mp4: the process that decoded it failed ({number.name}): {advice}" in str(outcome[0])
        assert outcome[0].source == str(bikes)
        assert np.array_equal(other.frames, Clip.load(bikes, size=SIZE, decoders=decoders).frames)


def test_processes_are_used_again(bikes):
    with DecoderProcesses(3) as decoders:
        for _ in range(5):
            Clip.load(bikes, size=SIZE, decoders=decoders)
            with pytest.raises(UnreadableMedia, match="cannot be read"):
                Clip.load(b"no video", size=SIZE, decoders=decoders)
        assert len(pids(decoders)) == 1


def test_what_a_process_has(bikes):
    with DecoderProcesses(1) as decoders:
        Clip.load(bikes, size=SIZE, decoders=decoders)
        (pid,) = pids(decoders)
        folder = Path(f"/proc/{pid}")
        limits = {line[:25].strip(): line[25:].split()[:2] for line in (folder / "limits").read_text().splitlines()}
        assert limits["Max core file size"] == limits["Max file size"] == ["0", "0"]
        assert limits["Max open files"] == ["64", "64"]
        assert limits["Max data size"][0] != "unlimited"
        assert (folder / "cwd").readlink() == Path("/")
        assert {entry.partition(b"=")[0] for entry in (folder / "environ").read_bytes().split(b"\0")} <= {
            b"",
            b"OPENBLAS_NUM_THREADS",
            b"LD_LIBRARY_PATH",
        }
        assert (folder / "oom_score_adj").read_text() == "1000\n"
        # Not even what this process has left open for its children.
        assert len(list((folder / "fd").iterdir())) <= 7


# They end when they are no longer needed.


def test_closing_ends_processes_and_what_they_decode(bikes):
    decoders = DecoderProcesses(2)
    Clip.load(bikes, size=SIZE, decoders=decoders)
    pid = stopped(decoders)
    with in_thread(lambda: Clip.load(bikes, size=SIZE, decoders=decoders)) as outcome:
        wait_until(lambda: decoders._free.qsize() == 1)
        Clip.load(bikes, size=SIZE, decoders=decoders)
        all_pids = pids(decoders)
        assert len(all_pids) == 2
        decoders.close()
        wait_until(lambda: not any(map(is_running, all_pids)), seconds=1)
    assert isinstance(outcome[0], Cancelled)
    assert not Path(f"/proc/{pid}").exists()  # no zombie
    with pytest.raises(StateError, match="closed"):
        Clip.load(bikes, size=SIZE, decoders=decoders)


# No `if __name__ == "__main__"`: the processes must not run this script.
SCRIPT = """
import os, signal, sys, time
from video_llava_client import Clip, DecoderProcesses
decoders = DecoderProcesses(2)
num_frames = Clip.load(sys.argv[1], size=56, decoders=decoders).info.num_frames
(pid,) = (process._process.pid for process in decoders._processes)
os.kill(pid, signal.SIGSTOP)
print(num_frames, pid, flush=True)
time.sleep(60)
"""


def test_a_script_without_a_guard_whose_end_ends_them(bikes, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen([sys.executable, script, bikes], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    num_frames, pid = map(int, process.stdout.readline().split())
    assert num_frames == 250
    assert is_running(pid)
    process.kill()
    process.wait()
    process.stdout.close()
    wait_until(lambda: not is_running(pid))


# By the clients.


def test_one_word(connect, server, bikes, tmp_path):
    Image.new("RGB", (100, 70), "red").save(tmp_path / "a.png")
    answers, client = [], None
    for isolated in (False, True):
        client = connect(server.url, isolated=isolated)
        answers.append(client.ask("What?", video=bikes, images=[tmp_path / "a.png"]))
        assert np.array_equal(client.call("load", bikes).frames, Clip.load(bikes, size=56).frames)
        client.call("chat", video=bikes, images=tmp_path / "a.png")
    assert client
    ids = pids(client.client._processes)
    assert ids
    assert all(map(is_running, ids))
    client.call("close")
    wait_until(lambda: not any(map(is_running, ids)), seconds=1)
    assert answers[0].frames == answers[1].frames
    assert np.array_equal(*(request.tensors["video_frames"] for request in server.requests[:2]))


def test_processes_of_several_clients(server, bikes):
    with DecoderProcesses(1) as decoders:
        for _ in range(2):
            with VideoLlava(server.url, isolated=decoders) as client:
                client.load(bikes)
        assert len(pids(decoders)) == 1


def test_cancelling_a_task_kills_what_it_decodes(server, bikes):
    async def run():
        async with AsyncVideoLlava(server.url, isolated=True) as client:
            await client.load(bikes)
            assert client._processes
            pid = stopped(client._processes)
            task = asyncio.create_task(client.load(bikes))
            processes = client._processes
            while processes._free.qsize() == processes.num_processes:
                await asyncio.sleep(0.01)
            started = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - started < 1
            while is_running(pid):
                await asyncio.sleep(0.01)
            await client.load(bikes)

    asyncio.run(asyncio.wait_for(run(), 30))


# By the commands.


@pytest.mark.parametrize("command", ["ask", "chat", "batch", "frames"])
def test_commands_decode_nothing_themselves(command, server, tmp_path, monkeypatch):
    Image.new("RGB", (100, 70), "red").save(tmp_path / "a.png")
    media = [str(BIKES), str(tmp_path / "a.png")]
    line = {"question": "What?", "video": media[0], "images": media[1]}
    (tmp_path / "in").write_text(json.dumps(line))
    arguments = {
        "ask": [*media, "What?"],
        "chat": media,
        "batch": [str(tmp_path / "in"), str(tmp_path / "out")],
        "frames": [media[0], "-o", str(tmp_path / "sheet.png")],
    }[command]
    for name in ("clip.holds_image", "clip._sample", "images.holds_image", "images.open_image"):
        monkeypatch.setattr(f"video_llava_client.{name}", None)
    url = [] if command == "frames" else ["--url", server.url]
    result = CliRunner().invoke(app, [command, *arguments, *url, "--isolated"], input="What?\n")
    assert result.exit_code == 0, result.output
    if command != "frames":
        assert {"video_frames", "image_frames"} <= set(server.requests[0].tensors)
