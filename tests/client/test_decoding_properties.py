"""Whatever the groups of pictures, the times and the number of frames: the frames are those of a full decode."""

import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.videos import decode_all, write_video
from video_llava_client.decoding import sample_video, to_rgb
from video_llava_client.sampling import sample_indices
from video_llava_client.sources import MediaFile
from video_llava_client.window import Window

CONTAINERS = {
    "libx264": ("mp4", "mov", "mkv", "ts", "flv"),
    "mpeg4": ("mp4", "mkv", "avi"),
    "mpeg2video": ("mp4", "mkv", "ts", "mpg"),
    "libvpx": ("webm",),
}


@st.composite
def videos(draw):
    """Draw the arguments of `write_video`."""
    codec = draw(st.sampled_from(sorted(CONTAINERS)))
    suffix = draw(st.sampled_from(CONTAINERS[codec]))
    # FFmpeg does not open a transport stream of a few packets.
    num_frames = draw(st.integers(12 if suffix == "ts" else 1, 90))
    steps = [1] * num_frames
    if suffix in ("mp4", "mov", "mkv") and draw(st.booleans()):
        steps = draw(st.lists(st.integers(1, 9), min_size=num_frames, max_size=num_frames))
    times = list(accumulate(steps))
    options: dict[str, Any] = {"g": str(draw(st.integers(1, 60)))}
    if codec != "libvpx":
        options["bf"] = str(draw(st.integers(0, 4 if codec == "libx264" else 2)))
    if codec == "libx264":
        flags = (f"open-gop={draw(st.integers(0, 1))}", f"b-pyramid={draw(st.sampled_from(['none', 'normal']))}")
        options["x264-params"] = ":".join(flags)
        if suffix == "mp4" and draw(st.booleans()):
            options["container_options"] = {"movflags": draw(st.sampled_from(["frag_keyframe", "faststart"]))}
    return suffix, {
        "num_frames": num_frames,
        "codec": codec,
        "rate": draw(st.sampled_from([24, 25, 30])),
        "times": times.__getitem__,
        "sound": suffix in ("mp4", "mkv") and draw(st.booleans()),
        "size": (48, 32),
        **options,
    }


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(videos(), st.lists(st.integers(0, 89), min_size=8, max_size=8))
def test_sampled_frames_are_those_of_a_full_decode(video, numbers):
    suffix, arguments = video
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder) / f"clip.{suffix}", **arguments)
        pixels, times = decode_all(path)
        chosen = tuple(number % len(pixels) for number in numbers)
        windows = (Window(), Window(frame_indices=chosen))
        spread, named = (sample_video(MediaFile(path.name, path), convert=to_rgb, window=w) for w in windows)
    assert spread.num_frames == named.num_frames == len(pixels)
    assert tuple(frame.index for frame in spread.frames) == sample_indices(len(pixels))
    assert tuple(frame.index for frame in named.frames) == chosen
    for frame in (*spread.frames, *named.frames):
        assert frame.pts_seconds == times[frame.index]
        assert np.array_equal(frame.picture, pixels[frame.index])
