"""Of a damaged file, what there is is used, and said; where that is too little, an error says so."""

import struct
from pathlib import Path

import numpy as np
import pytest
from support.videos import decode_all
from video_llava_client import NoFrames, UnreadableMedia
from video_llava_client.decoding import sample_video, to_rgb
from video_llava_client.sampling import sample_indices
from video_llava_client.sources import MediaFile

NUM_FRAMES = 200


@pytest.fixture
def whole(write_video, tmp_path):
    """Write a video of 200 frames, by its suffix."""

    def write(suffix, **options):
        codec = {"codec": "mpeg4"} if suffix == ".avi" else {"bf": "2"}
        options = {"size": (160, 120), "g": "20", **codec, **options}
        return write_video(tmp_path / f"clip{suffix}", NUM_FRAMES, **options)

    return write


def sample(path):
    return sample_video(MediaFile(path.name, Path(path)), convert=to_rgb)


def assert_frames_are_those_of_all(sampled, path):
    pixels, times = decode_all(path)
    for frame in sampled.frames:
        assert frame.pts_seconds == times[frame.index]
        assert np.array_equal(frame.picture, pixels[frame.index])


def cut(path, part):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


@pytest.mark.parametrize("part", [0.15, 0.5, 0.97])
def test_an_mp4_that_breaks_off(part, whole):
    path = cut(whole(".mp4", container_options={"movflags": "faststart"}), part)
    sampled = sample(path)
    assert_frames_are_those_of_all(sampled, path)
    assert sampled.warnings == (f"truncated: the file promises 200 frames and holds {sampled.num_frames}",)
    assert sampled.num_frames < NUM_FRAMES


@pytest.mark.parametrize("suffix", [".mkv", ".avi", ".ts"])
def test_others_that_break_off(suffix, whole):
    path = cut(whole(suffix), 0.5)
    sampled = sample(path)
    assert_frames_are_those_of_all(sampled, path)
    assert sampled.num_frames == len(decode_all(path)[0])
    # A transport stream promises nothing.
    assert [warning.split(":")[0] for warning in sampled.warnings] == ["truncated"] * (suffix != ".ts")


def test_an_mp4_without_its_index(whole):
    with pytest.raises(UnreadableMedia, match=r"cannot be read .*; an MP4 that was cut off has lost its index\): give"):
        sample(cut(whole(".mp4"), 0.5))


def test_a_recording_that_begins_in_the_middle(whole):
    path = whole(".ts")
    data = path.read_bytes()
    path.write_bytes(data[188 * (len(data) // 188 * 4 // 10) :])
    sampled = sample(path)
    assert_frames_are_those_of_all(sampled, path)
    assert tuple(f.index for f in sampled.frames) == sample_indices(len(decode_all(path)[0]))


def test_two_recordings_in_one_file(whole):
    path = whole(".ts")
    path.write_bytes(path.read_bytes() * 2)
    sampled = sample(path)
    assert_frames_are_those_of_all(sampled, path)
    assert sampled.num_frames == 2 * NUM_FRAMES


def test_an_avi_that_promises_too_much(whole):
    path = whole(".avi")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, 444)
    path.write_bytes(data)
    sampled = sample(path)
    assert_frames_are_those_of_all(sampled, path)
    assert sampled.warnings == ("truncated: the file promises 444 frames and holds 200",)


def zero(path, start, end):
    data = bytearray(path.read_bytes())
    first, last = (int(len(data) * part) for part in (start, end))
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return path


def test_a_frame_that_does_not_decode_is_replaced_by_the_one_before(whole):
    # Every frame is a key frame, and those of the fourth eighth are gone.
    path = zero(whole(".mp4", g="1", bf="0"), 3.3 / 8, 4.3 / 8)
    sampled = sample(path)
    assert [frame.index for frame in sampled.frames] == list(sample_indices(NUM_FRAMES))
    times = [frame.pts_seconds for frame in sampled.frames]
    assert times[3] == 3.0
    assert times[4] is not None
    assert 3.0 < times[4] < 4.0
    assert sampled.warnings[0] == "damaged: frames [100] do not decode and are replaced by the ones before them"


def test_frames_that_do_not_decode(whole):
    with pytest.raises(NoFrames, match=r"clip\.mp4: frames \[.*\] of 200 do not decode, the file is damaged"):
        sample(zero(whole(".mp4", bf="0"), 0.2, 0.9))


def test_frames_that_decode_in_part(whole):
    path = whole(".avi")
    data = bytearray(path.read_bytes())
    for position in np.random.default_rng(1).integers(len(data) // 10, len(data) * 9 // 10, 60):
        data[position] ^= 255
    path.write_bytes(data)
    assert any("are decoded in part" in warning for warning in sample(path).warnings)


def test_a_size_that_changes_on_the_way(write_video, tmp_path):
    parts = [write_video(tmp_path / f"{size[0]}.ts", 30, size=size, g="10") for size in ((96, 64), (64, 48))]
    path = tmp_path / "changing.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    sampled = sample(path)
    assert {frame.picture.shape for frame in sampled.frames} == {(64, 96, 3), (48, 64, 3)}
    assert_frames_are_those_of_all(sampled, path)
