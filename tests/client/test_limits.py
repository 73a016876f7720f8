"""Limits hold before the memory and the time are spent."""

import os
import struct
import subprocess
import sys
import time

import av
import numpy as np
import pytest
from PIL import Image
from video_llava_client import (
    Clip,
    DeadlineExceeded,
    MediaError,
    MediaLimits,
    MediaTimedOut,
    MediaTooLarge,
    OptionError,
    load_image,
)
from video_llava_client.deadline import Deadline
from video_llava_client.limits import Budget
from video_llava_client.sources import open_media


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            MediaLimits(max_pixels=100_000),
            r"640x272 is 174080 pixels, over the limit max_pixels=100000: give a smaller",
        ),
        (MediaLimits(max_aspect_ratio=2), r"640x272 has an aspect ratio of 2\.4, over the limit max_aspect_ratio=2"),
        (MediaLimits(max_duration_seconds=5), r"lasts 10\.0 s, over the limit max_duration_seconds=5"),
    ],
)
def test_videos_over_a_limit(limits, message, bikes):
    with pytest.raises(MediaTooLarge, match=rf"bikes\.mp4: {message}.*raise MediaLimits\.") as caught:
        Clip.load(bikes, size=56, limits=limits)
    assert caught.value.source == str(bikes)


def test_too_little_time(bikes):
    with pytest.raises(MediaTimedOut, match=r"not decoded after 1e-05 s: .* or raise MediaLimits\.timeout_seconds"):
        Clip.load(bikes, size=56, limits=MediaLimits(timeout_seconds=1e-5))


@pytest.mark.parametrize(
    ("timeout_seconds", "seconds", "error"),
    [(60, 1, DeadlineExceeded), (None, 1, DeadlineExceeded), (1, 60, MediaTimedOut)],
)
def test_the_earlier_of_two_deadlines_holds(timeout_seconds, seconds, error):
    budget = Budget(MediaLimits(timeout_seconds=timeout_seconds), source="a.mp4", deadline=Deadline(seconds))
    assert 0.5 < (budget.remaining_seconds or 0) <= 1
    budget.check_time()
    assert type(budget.timed_out()) is error


def test_the_deadline_of_a_request_ends_a_silent_pipe():
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as file, os.fdopen(write_end, "wb"):
        media = open_media(file, MediaLimits(), deadline=Deadline(0.2))
        with pytest.raises(DeadlineExceeded, match=r"within timeout_seconds=0\.2, .* is not decoded yet"), media:
            pass


def test_no_limits(bikes):
    limits = MediaLimits(None, None, None, None, None)
    assert np.array_equal(Clip.load(bikes, size=56, limits=limits).frames, Clip.load(bikes, size=56).frames)


@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_above_zero(value):
    with pytest.raises(OptionError, match="max_pixels must be above 0, or None for no limit, got"):
        MediaLimits(max_pixels=value)


def test_images_over_a_limit(tmp_path):
    Image.new("RGB", (3000, 10)).save(tmp_path / "thin.png")
    with pytest.raises(MediaTooLarge, match=r"3000x10 has an aspect ratio of 300\.0"):
        load_image(tmp_path / "thin.png", size=224)
    with pytest.raises(MediaTooLarge, match="max_pixels=1000"):
        load_image(Image.new("RGB", (100, 100)), size=56, limits=MediaLimits(max_pixels=1000))


def test_a_picture_of_many_pixels_in_few_bytes(tmp_path):
    Image.new("1", (16_000, 16_000)).save(tmp_path / "bomb.png")
    with pytest.raises(MediaTooLarge, match=r"bomb\.png: has too many pixels"):
        load_image(tmp_path / "bomb.png", size=56)


CHILD = """
import resource, sys
from video_llava_client import Clip, MediaError, MediaLimits, MediaTooLarge, decoding
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Clip.load(sys.argv[1], size=56, limits=MediaLimits(max_pixels=8_000_000))
except MediaTooLarge as exc:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, exc)
"""


def test_a_video_of_many_pixels_in_few_bytes_costs_no_memory(tmp_path):
    path = tmp_path / "bomb.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 4096, 4096, "yuv420p"
        frame = av.VideoFrame(4096, 4096, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert path.stat().st_size < 10_000_000
    output = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, check=True, text=True).stdout
    num_kib, _, text = output.partition(" ")
    assert "4096x4096 is 16777216 pixels, over the limit max_pixels=8000000" in text
    # One such picture takes 25 MB.
    assert int(num_kib) < 20_000


def test_a_million_frames_cut_off_by_an_edit_list_do_not_hang(write_video, tmp_path):
    path = write_video(tmp_path / "hostile.mp4", 30, codec="mpeg4", size=(64, 48))
    data, num_frames = bytearray(path.read_bytes()), 1_000_000
    # All frames of one byte, in one chunk: stsz is size and number, stts number and duration, stsc the chunk.
    for box, offset, values in (
        ("stsz", 8, (1, num_frames)),
        ("stts", 12, (num_frames, 512)),
        ("stsc", 12, (1, num_frames)),
    ):
        struct.pack_into(">II", data, data.index(box.encode()) + offset, *values)
    path.write_bytes(data)
    started = time.monotonic()
    with pytest.raises(MediaError, match=r"hostile\.mp4: "):
        Clip.load(path, size=56, limits=MediaLimits(timeout_seconds=5))
    assert time.monotonic() - started < 20
