"""The sampled frames are those of a full decode, whatever the container, the codec and the key frames."""

import gc
import shutil
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from support.videos import decode_all
from video_llava_client import Clip, NoVideoStream, UnreadableMedia, decoding
from video_llava_client.container import Video, open_video
from video_llava_client.decoding import sample_video, to_rgb
from video_llava_client.sampling import sample_indices
from video_llava_client.sources import MediaFile
from video_llava_client.timeline import Timeline


def sample(path):
    return sample_video(MediaFile(str(path), Path(path)), convert=to_rgb)


def assert_sampled_as_from_all(path):
    pixels, times = decode_all(path)
    sampled = sample(path)
    assert tuple(frame.index for frame in sampled.frames) == sample_indices(len(pixels))
    for frame in sampled.frames:
        assert frame.pts_seconds == times[frame.index]
        assert np.array_equal(frame.picture, pixels[frame.index])
    return sampled


@pytest.fixture
def from_start(monkeypatch):
    """The videos that are decoded from the start."""
    decoded = []
    original = decoding._sample_from_start
    monkeypatch.setattr(
        decoding, "_sample_from_start", lambda *args, **kwargs: decoded.append(args) or original(*args, **kwargs)
    )
    return decoded


@pytest.fixture
def by_packets(monkeypatch):
    """The videos whose every packet is read."""
    read = []
    original = Timeline.from_packets
    monkeypatch.setattr(Timeline, "from_packets", lambda video: read.append(video) or original(video))
    return read


def test_a_real_clip(bikes, from_start, by_packets):
    sampled = assert_sampled_as_from_all(bikes)
    assert (sampled.num_frames, sampled.duration_seconds, sampled.warnings) == (250, 10.0, ())
    assert not from_start
    assert not by_packets


def x265(more=""):
    return {"codec": "libx265", "x265-params": f"log-level=none:keyint=14:bframes=3{more}"}


PQ = ":colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc"

# Their index says all.
INDEXED = {
    "short_gops.mp4": {"g": "10", "bf": "3"},
    "one_gop.mp4": {"g": "1000", "bf": "2"},
    "open_gops.mp4": {"g": "12", "bf": "2", "x264-params": "open-gop=1"},
    "intra_refresh.mp4": {"g": "12", "bf": "2", "x264-params": "intra-refresh=1"},
    "no_b_frames.mov": {"g": "12", "bf": "0"},
    "with_sound.mp4": {"g": "9", "bf": "2", "sound": True, "container_options": {"movflags": "faststart"}},
    "interlaced.mp4": {"g": "12", "bf": "2", "flags": "+ildct+ilme", "x264-params": "tff=1"},
    "ten_bits.mp4": {"g": "12", "bf": "2", "pix_fmt": "yuv420p10le"},
    "full_chroma.mp4": {"g": "12", "bf": "2", "pix_fmt": "yuv444p", "size": (97, 65)},
    "hevc.mp4": x265(),
    "hdr.mp4": {**x265(PQ), "pix_fmt": "yuv420p10le"},
    "av1.mp4": {"codec": "libsvtav1", "g": "15"},
    "mpeg4.mp4": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "mpeg4.avi": {"codec": "mpeg4", "g": "12"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pix_fmt": "yuv422p10le"},
    "prores_alpha.mov": {"codec": "prores_ks", "pix_fmt": "yuva444p10le"},
    "odd_size.avi": {"codec": "ffv1", "size": (97, 65), "pix_fmt": "yuv444p"},
}

# Their packets do.
DEMUXED = {
    "vfr.mp4": {"g": "9", "bf": "2", "times": lambda index: index * index // 7 + index},
    "vfr.mkv": {"g": "9", "bf": "2", "times": lambda index: index * index // 7 + index},
    "pause.mp4": {"g": "9", "bf": "2", "times": lambda index: index + (100 if index > 30 else 0)},
    "fragments.mp4": {"g": "9", "bf": "2", "container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "fragments_after_an_index.mp4": {"g": "9", "bf": "2", "container_options": {"movflags": "frag_keyframe"}},
    "open_gops.mkv": {"g": "12", "bf": "2", "x264-params": "open-gop=1"},
    "late_start.mkv": {"g": "9", "bf": "2", "times": lambda index: index + 40},
    "odd_size.mkv": {"g": "12", "bf": "2", "size": (97, 65), "pix_fmt": "yuv444p"},
    "hevc.mkv": x265(),
    "av1.mkv": {"codec": "libsvtav1", "g": "15"},
    "vp8.webm": {"codec": "libvpx", "g": "15"},
    "vp9.webm": {"codec": "libvpx-vp9", "g": "15"},
    "vp9_alpha.webm": {"codec": "libvpx-vp9", "g": "15", "pix_fmt": "yuva420p"},
    "stream.ts": {"g": "10", "bf": "2", "sound": True},
    "mpeg2.ts": {"codec": "mpeg2video", "g": "12", "bf": "2"},
    "interlaced.ts": {"codec": "mpeg2video", "g": "12", "bf": "2", "flags": "+ildct+ilme"},
    "mpeg2.mpg": {"codec": "mpeg2video", "g": "12", "bf": "2"},
    "mpeg2.mxf": {"codec": "mpeg2video", "g": "12", "bf": "2"},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "g": "12", "bf": "2"},
    "flash.flv": {"g": "12", "bf": "2"},
    "windows.wmv": {"codec": "wmv2", "g": "12"},
    "vp8.ogg": {"codec": "libvpx", "g": "12"},
    "h264.nut": {"g": "12", "bf": "2"},
}

# No format to seek in, or no times to find frames by.
FROM_START = {
    "cat.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "cat.apng": {"codec": "apng", "pix_fmt": "rgba"},
    "raw.h264": {"g": "12", "bf": "2"},
    "raw.hevc": x265(),
    "vp9.ivf": {"codec": "libvpx-vp9", "g": "12"},
    "h264_b_frames.avi": {"g": "12", "bf": "2"},
}


@pytest.mark.parametrize("name", INDEXED)
def test_frames_found_by_the_index(name, write_video, tmp_path, from_start, by_packets):
    assert_sampled_as_from_all(write_video(tmp_path / name, 61, **INDEXED[name]))
    assert not by_packets
    assert not from_start


@pytest.mark.parametrize("name", DEMUXED)
def test_frames_found_by_the_packets(name, write_video, tmp_path, from_start, by_packets):
    assert_sampled_as_from_all(write_video(tmp_path / name, 61, **DEMUXED[name]))
    assert len(by_packets) == 1
    assert not from_start


@pytest.mark.parametrize("name", FROM_START)
def test_frames_found_from_the_start(name, write_video, tmp_path, from_start):
    assert_sampled_as_from_all(write_video(tmp_path / name, 61, **FROM_START[name]))
    assert from_start


@pytest.mark.parametrize("num_frames", range(1, 8))
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_short_videos(num_frames, suffix, write_video, tmp_path):
    sampled = assert_sampled_as_from_all(write_video(tmp_path / f"short.{suffix}", num_frames, bf="2"))
    assert len(sampled.frames) == 8


def test_where_seeking_fails_the_video_is_decoded_from_the_start(write_video, tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mp4", 50, g="10", bf="2")
    monkeypatch.setattr(Video, "seek", lambda *_args, **_options: False)
    assert_sampled_as_from_all(path)


@pytest.mark.parametrize("offset", [200, 2_000])
def test_a_seek_that_lands_too_late_is_noticed(offset, write_video, tmp_path, monkeypatch):
    path = write_video(tmp_path / "clip.mkv", 61, g="12", bf="2")
    seek = Video.seek
    monkeypatch.setattr(Video, "seek", lambda video, to, **options: seek(video, to + offset, **options))
    assert_sampled_as_from_all(path)


def test_an_index_that_promises_other_times_is_not_believed(write_video, tmp_path, monkeypatch, by_packets):
    path = write_video(tmp_path / "clip.mp4", 61, g="12", bf="2")
    original = Timeline.from_index

    def shifted(video):
        timeline = original(video)
        assert timeline is not None
        timeline.times.flags.writeable = True
        timeline.times[:] += 1
        return timeline

    monkeypatch.setattr(Timeline, "from_index", shifted)
    assert_sampled_as_from_all(path)
    assert by_packets


def test_decoding_begins_at_the_key_frame_and_nowhere_else(write_video, tmp_path):
    # MPEG-4 would decode from anywhere: the right time, the wrong picture.
    path = write_video(tmp_path / "clip.mp4", 40, codec="mpeg4", g="12")
    with open_video(MediaFile("clip", path)) as video:
        timeline = Timeline.from_packets(video)
        second, third = timeline.key_frame(1), timeline.key_frame(2)
        assert next(video.packets_from(second, seek_to=second)).pts == second.pts
        assert next(video.packets_from(third, seek_to=second)).pts == third.pts
        assert list(video.packets_from(second, seek_to=third)) == []


def test_a_long_video_costs_no_more_than_the_way_from_its_key_frames(write_video, tmp_path, monkeypatch):
    path = write_video(tmp_path / "long.mp4", 800, size=(32, 32), g="10", bf="2")
    decoded = []
    decode = Video.decode
    monkeypatch.setattr(Video, "decode", lambda video, packet: decoded.append(packet) or decode(video, packet))
    sample(path)
    assert len(decoded) < 8 * 15


def move_edit(path, num_frames, *, rate=25):
    """Let the video's edit list begin `num_frames` later."""
    data = bytearray(path.read_bytes())
    # Box "elst": version, number of entries; then the first one's duration, start in the media, speed.
    entry = data.index(b"elst") + 12
    duration, start = struct.unpack_from(">Ii", data, entry)
    struct.pack_into(">Ii", data, entry, duration - num_frames * 1000 // rate, start + num_frames * 12800 // rate)
    path.write_bytes(data)


@pytest.mark.parametrize("bf", ["0", "2"])
def test_frames_cut_off_by_an_edit_list_do_not_count(bf, write_video, tmp_path, from_start):
    path = write_video(tmp_path / "trimmed.mp4", 40, g="40", bf=bf)
    move_edit(path, 10)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 40
    sampled = assert_sampled_as_from_all(path)
    assert (sampled.num_frames, sampled.warnings) == (30, ())
    assert not from_start


def test_no_media_file(tmp_path):
    path = tmp_path / "notes.mp4"
    path.write_text("not a video at all " * 50)
    with pytest.raises(UnreadableMedia, match=r"notes\.mp4: cannot be read as a video .*: give an MP4"):
        sample(path)


HOSTILE = {
    "concat": "ffconcat version 1.0\nfile private.mp4\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nprivate.mp4\n#EXT-X-ENDLIST\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    "dash": '<?xml version="1.0"?><MPD><Period><BaseURL>private.mp4</BaseURL></Period></MPD>',
}


def test_no_frame_outlives_its_decoding(bikes):
    """Each has buffers of its decoder: 17 MB a video at 1080p until Python looks for cycles, 300 MB in a batch."""
    gc.collect()
    gc.disable()
    try:
        Clip.load(bikes, size=56)
        assert not [each for each in gc.get_objects() if isinstance(each, av.VideoFrame)]
    finally:
        gc.enable()


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("as_file", [True, False])
def test_a_playlist_cannot_open_other_files(kind, as_file, bikes, tmp_path):
    shutil.copy(bikes, tmp_path / "private.mp4")
    path = tmp_path / "list.mp4"
    path.write_text(HOSTILE[kind])
    with path.open("rb") as file, pytest.raises(UnreadableMedia, match=r"list\.mp4: cannot be read as a video"):
        sample_video(MediaFile(str(path), path if as_file else file), convert=to_rgb)


def test_sound_alone(write_sound, tmp_path):
    with pytest.raises(NoVideoStream, match=r"sound\.mp4: holds no video stream"):
        sample(write_sound(tmp_path / "sound.mp4"))


def test_a_cover_picture_is_no_video(write_sound, tmp_path):
    with pytest.raises(NoVideoStream, match=r"song\.mp3: holds no video stream"):
        sample(write_sound(tmp_path / "song.mp3", codec="mp3", cover=True))
