"""The sampled frames are those of a full decode, whatever the container, the codec and the key frames."""

import shutil
import struct

import av
import numpy as np
import pytest
from video_llava_client import NoFrames, NoVideoStream, UnreadableMedia, decoding
from video_llava_client.decoding import sample_video
from video_llava_client.sampling import sample_indices
from video_llava_client.timeline import Timeline


def decode_all(path):
    """Return the pixels and the times of every frame, by decoding every frame."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [frame.to_ndarray(format="rgb24") for frame in frames], [frame.time for frame in frames]


def assert_sampled_as_from_all(path):
    pixels, times = decode_all(path)
    sampled = sample_video(path)
    assert tuple(frame.index for frame in sampled) == sample_indices(len(pixels))
    for frame in sampled:
        assert frame.pts_seconds == times[frame.index]
        assert np.array_equal(frame.to_rgb(), pixels[frame.index])


@pytest.fixture
def no_fallback(monkeypatch):
    """Fail where frames are not found by seeking."""
    monkeypatch.setattr(decoding, "_decode_from_start", lambda *_: pytest.fail("decoded from the start"))


@pytest.mark.usefixtures("no_fallback")
def test_a_real_clip(bikes):
    assert_sampled_as_from_all(bikes)


VIDEOS = {
    "short_gops.mp4": {"g": "10", "bf": "3"},
    "one_gop.mp4": {"g": "1000", "bf": "2"},
    "open_gops.mkv": {"g": "12", "bf": "2", "x264-params": "open-gop=1"},
    "no_b_frames.mov": {"g": "12", "bf": "0"},
    "vfr.mp4": {"g": "9", "bf": "2", "times": lambda index: index * index // 7 + index},
    "late_start.mkv": {"g": "9", "bf": "2", "times": lambda index: index + 40},
    "stream.ts": {"g": "10", "bf": "2"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "15"},
    "vp8.mkv": {"codec": "libvpx", "g": "15"},
    "hevc.mp4": {"codec": "libx265", "x265-params": "log-level=none:keyint=14:bframes=3"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "12"},
}


@pytest.mark.usefixtures("no_fallback")
@pytest.mark.parametrize("name", VIDEOS)
def test_frames_found_by_seeking(name, write_video, tmp_path):
    assert_sampled_as_from_all(write_video(tmp_path / name, 61, **VIDEOS[name]))


def test_an_animated_gif(write_video, tmp_path):
    assert_sampled_as_from_all(write_video(tmp_path / "cat.gif", 19, codec="gif", pix_fmt="rgb8"))


def test_b_frames_without_times_of_their_own(write_video, tmp_path):
    assert_sampled_as_from_all(write_video(tmp_path / "b_frames.avi", 40, codec="mpeg4", g="12", bf="2"))


@pytest.mark.parametrize("num_frames", range(1, 8))
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_short_videos(num_frames, suffix, write_video, tmp_path):
    assert_sampled_as_from_all(write_video(tmp_path / f"short.{suffix}", num_frames, bf="2"))


def test_where_seeking_fails_the_video_is_decoded_from_the_start(write_video, tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", 50, g="10", bf="2")
    monkeypatch.setattr(decoding, "_decode_by_seeking", lambda *_: {})
    assert_sampled_as_from_all(path)


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_seek_that_lands_too_late_is_noticed(codec, write_video, tmp_path, monkeypatch):
    # Transport streams are sought by decoding time; by presentation time one lands behind the key frame.
    path = write_video(tmp_path / "clip.ts", 61, codec=codec, g="12", bf="2")
    fallbacks = []
    from_start = decoding._decode_from_start
    monkeypatch.setattr(decoding, "_decode_from_start", lambda *args: fallbacks.append(1) or from_start(*args))
    monkeypatch.setitem(decoding._SEEK_BY, "mpegts", "pts")
    assert_sampled_as_from_all(path)
    assert fallbacks


def test_a_seek_that_lands_between_key_frames_yields_nothing(write_video, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 30, codec="mpeg4", g="12")
    with decoding._open(path) as (container, stream):
        timeline = Timeline.read(container, stream)
        wanted = timeline.pts[20]
        assert wanted is not None
        container.seek(wanted - 1, stream=stream, any_frame=True)
        # MPEG-4 would decode from anywhere: the right time, the wrong picture.
        frames = decoding._decode_from_key(container, stream, timeline.keys[1], wanted=frozenset({wanted}), last=wanted)
        assert list(frames) == []


def test_a_long_video_costs_no_more_than_the_way_from_its_key_frames(write_video, tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", 800, size=(32, 32), g="10", bf="2")
    decoded = []
    decode = decoding._decode
    monkeypatch.setattr(decoding, "_decode", lambda packet: decoded.append(packet.pts) or decode(packet))
    sample_video(path)
    assert len(decoded) < 8 * 15


def test_frames_cut_off_by_an_edit_list_do_not_count(write_video, tmp_path):
    path = write_video(tmp_path / "trimmed.mp4", 40, g="40", bf="0")
    data = bytearray(path.read_bytes())
    # Box "elst": version, number of entries; then the first one's duration, start in the media, speed.
    entry = data.index(b"elst") + 12
    duration, start = struct.unpack_from(">Ii", data, entry)
    ten_frames = 10 * 12800 // 25
    struct.pack_into(">Ii", data, entry, duration - 400, start + ten_frames)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 40
    assert sample_video(path)[-1].index == 30 * 7 // 8
    assert_sampled_as_from_all(path)


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_a_turned_video_comes_upright(rotation, write_video, tmp_path):
    path = write_video(tmp_path / "phone.mov", 12, rotation=rotation)
    pixels, _ = decode_all(path)
    turned = [np.rot90(pixels[index], k=rotation // 90) for index in sample_indices(12)]
    assert np.array_equal([frame.to_rgb() for frame in sample_video(path)], turned)


def test_no_media_file(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("not a video at all " * 50)
    with pytest.raises(UnreadableMedia, match=r"notes\.mp4: cannot be read as a video .*: give an MP4"):
        sample_video(path)


def test_a_playlist_cannot_open_other_files(bikes, tmp_path):
    shutil.copy(bikes, tmp_path / "private.mp4")
    path = tmp_path / "list.mp4"
    path.write_text("ffconcat version 1.0\nfile private.mp4\n")
    with pytest.raises(UnreadableMedia, match=r"list\.mp4: cannot be read as a video"):
        sample_video(path)


def test_sound_alone(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(NoVideoStream, match=r"sound\.mp4: holds no video stream"):
        sample_video(path)


def test_frames_that_do_not_decode(write_video, tmp_path):
    path = write_video(tmp_path / "clip.mp4", 40, g="10", bf="0")
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) * 3 // 4] = bytes(len(data) * 3 // 4 - len(data) // 4)
    path.write_bytes(data)
    with pytest.raises(NoFrames, match=r"clip\.mp4: frames \[.*\] of \d+ do not decode"):
        sample_video(path)
