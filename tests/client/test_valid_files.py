"""Valid files that are easily read wrong: the frames are those of a full decode, as players show them, and no warning
says otherwise. The table is `FILES`."""

import io
import math
import struct
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.videos import decode_all, picture, remux, write_video
from video_llava_client.decoding import sample_video, to_rgb
from video_llava_client.orientation import Orientation
from video_llava_client.sampling import sample_indices
from video_llava_client.sources import MediaFile

NUM_FRAMES = 48


def sample(path):
    return sample_video(MediaFile(path.name, Path(path)), convert=to_rgb)


def encode(path, **options):
    return write_video(path, NUM_FRAMES, **options)


def h263_in_avi(folder):
    """Each packet is flagged as a key frame."""
    return remux(encode(folder / "a.3gp", codec="h263", g="12", size=(176, 144)), folder / "a.avi")


def all_flagged(suffix, **options):
    """Each packet is flagged as a key frame, as some writers do."""

    def flag(packet):
        packet.is_keyframe = True
        return True

    return lambda folder: remux(encode(folder / f"a.{suffix}", g="12", **options), folder / f"b.{suffix}", is_kept=flag)


def cut(suffix, **options):
    """Begins at the second key frame, with the frames that are shown before it and need the first."""

    def make(folder):
        source = encode(folder / "whole.mp4", g="16", **options)
        with av.open(str(source)) as container:
            second = [packet.dts for packet in container.demux(video=0) if packet.is_keyframe and packet.size][1]
        return remux(source, folder / f"cut.{suffix}", is_kept=lambda packet: packet.dts >= second)

    return make


def x265(more):
    return {"codec": "libx265", "x265-params": f"log-level=none:keyint=16:min-keyint=16:bframes=4:{more}"}


def from_the_middle(suffix, **options):
    def make(folder):
        path = encode(folder / f"clip.{suffix}", g="12", bf="2", **options)
        data = path.read_bytes()
        path.write_bytes(data[188 * (len(data) // 188 * 4 // 10) :])
        return path

    return make


def with_gaps(step, **options):
    def make(folder):
        return write_video(folder / "gaps.avi", 9, times=lambda index: step * index, **options)

    return make


def with_empty_packets(folder):
    """MOV whose size table gives some packets to the ones after them."""
    path = encode(folder / "a.mov", codec="mjpeg", pix_fmt="yuvj420p")
    data = bytearray(path.read_bytes())
    table = data.index(b"stsz") + 16
    sizes = list(struct.unpack_from(f">{NUM_FRAMES}I", data, table))
    for index in (5, 7, 8, 22, 40):  # none of the sampled
        sizes[index : index + 2] = 0, sum(sizes[index : index + 2])
    struct.pack_into(f">{NUM_FRAMES}I", data, table, *sizes)
    path.write_bytes(data)
    return path


def to_a_pipe(folder):
    """AVI that says 2^30 frames, because its header could not be written again."""
    source, target = encode(folder / "source.avi", codec="mjpeg", pix_fmt="yuvj420p"), OnlyWrite()
    with av.open(str(source)) as container, av.open(target, "w", format="avi") as output:
        stream = output.add_stream_from_template(container.streams.video[0])
        for packet in container.demux(video=0):
            if packet.size:
                packet.stream = stream
                output.mux(packet)
    (folder / "pipe.avi").write_bytes(target.data.getvalue())
    return folder / "pipe.avi"


class OnlyWrite:
    def __init__(self):
        self.data = io.BytesIO()

    def write(self, data):
        return self.data.write(data)


def edited(start, end):
    """An edit list shows the media from frame `start` to `end` only."""

    def make(folder):
        path = encode(folder / "whole.mp4", g="12", bf="2")
        data = bytearray(path.read_bytes())
        entry = data.index(b"elst") + 12
        shift = int.from_bytes(data[entry + 4 : entry + 8])
        data[entry : entry + 4] = ((end - start) * 40).to_bytes(4)  # in milliseconds
        data[entry + 4 : entry + 8] = (start * 512 + shift).to_bytes(4)
        (folder / "edited.mp4").write_bytes(data)
        return folder / "edited.mp4"

    return make


def encoded(name, **options):
    return lambda folder: encode(folder / name, **options)


def with_a_palette(suffix):
    """The palette is in the first packet only."""

    def make(folder):
        palette = np.random.default_rng(0).integers(0, 256, (256, 4), np.uint8)
        with av.open(str(folder / f"a.{suffix}"), "w") as container:
            stream: Any = container.add_stream("rawvideo", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "pal8"
            for index in range(NUM_FRAMES):
                pixels: Any = (picture(index, 96, 64)[:, :, 0], palette)
                frame = av.VideoFrame.from_ndarray(pixels, format="pal8")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return folder / f"a.{suffix}"

    return make


def leading_pictures(_folder):
    return Path(__file__).parents[1] / "media" / "leading.mp4"


FILES = {
    "h263_in_avi": h263_in_avi,
    "h264_all_flagged": all_flagged("mkv", bf="2"),
    "hevc_all_flagged": all_flagged("mkv", codec="libx265", **{"x265-params": "log-level=none:keyint=12"}),
    "mpeg4_all_flagged": all_flagged("mkv", codec="mpeg4", bf="2"),
    "mpeg4_all_flagged_in_mp4": all_flagged("mp4", codec="mpeg4", bf="2"),
    "mpeg2_all_flagged": all_flagged("mkv", codec="mpeg2video", bf="2"),
    "vp8_all_flagged": all_flagged("mkv", codec="libvpx"),
    "vp9_all_flagged": all_flagged("mkv", codec="libvpx-vp9"),
    "rpza_all_flagged": encoded("a.mov", codec="rpza", pix_fmt="rgb555"),
    "qtrle": encoded("a.mov", codec="qtrle", pix_fmt="rgb24", g="12"),
    "leading_pictures_vvc": leading_pictures,
    "leading_pictures_that_need_others": cut("mp4", **x265("open-gop=1")),
    "leading_pictures_that_need_others_in_ts": cut("ts", **x265("open-gop=1")),
    "leading_pictures_that_need_others_in_mkv": cut("mkv", **x265("open-gop=1")),
    "leading_pictures_that_need_none": cut("mp4", **x265("open-gop=0:radl=2")),
    "leading_pictures_that_need_none_in_ts": cut("ts", **x265("open-gop=0:radl=2")),
    "leading_pictures_mpeg2": cut("ts", codec="mpeg2video", bf="2"),
    "begins_in_the_middle_mpeg2": from_the_middle("ts", codec="mpeg2video"),
    "begins_in_the_middle_mpeg4": from_the_middle("ts", codec="mpeg4"),
    "palette_in_avi": with_a_palette("avi"),
    "palette_in_mov": with_a_palette("mov"),
    "gaps_in_avi": with_gaps(3, codec="mjpeg", pix_fmt="yuvj420p"),
    "gaps_in_avi_with_b_frames": with_gaps(3, bf="2"),
    "wide_gaps_in_avi": with_gaps(24, codec="mpeg4"),
    "empty_packets_in_mov": with_empty_packets,
    "avi_from_a_pipe": to_a_pipe,
    "an_edit_that_begins_late": edited(14, 48),
    "an_edit_that_ends_early": edited(0, 20),
    "an_edit_in_the_middle": edited(14, 30),
}


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_a_full_decode(name, tmp_path):
    path = FILES[name](tmp_path)
    pixels, times = decode_all(path)
    sampled = sample(path)
    assert (sampled.num_frames, sampled.warnings) == (len(pixels), ())
    assert tuple(frame.index for frame in sampled.frames) == sample_indices(len(pixels))
    for frame in sampled.frames:
        assert frame.pts_seconds == times[frame.index]
        assert np.array_equal(frame.picture, pixels[frame.index])
    assert len({frame.picture.tobytes() for frame in sampled.frames}) == len({frame.index for frame in sampled.frames})


def test_a_palette_gives_colours(tmp_path):
    assert sample(with_a_palette("avi")(tmp_path)).frames[7].picture.std() > 20


def display_matrix(degrees, mirror=(1, 1)):
    """Return FFmpeg's matrix for a turn clockwise after the mirroring of columns and rows."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    columns, rows = mirror
    linear = (cosine * columns, sine * columns, -sine * rows, cosine * rows)
    a, b, c, d = (round(value * 65536) for value in linear)
    return [a, b, 0, c, d, 0, 0, 0, 1 << 30]


# What is done to the stored pixels, and the degrees that are left.
ORIENTATIONS = {
    (0, (1, 1)): (lambda pixels: pixels, 0),
    (0, (-1, 1)): (np.fliplr, 0),
    (0, (1, -1)): (np.flipud, 0),
    (90, (1, 1)): (lambda pixels: np.rot90(pixels, -1), 0),
    (180, (1, 1)): (lambda pixels: np.rot90(pixels, 2), 0),
    (270, (1, 1)): (lambda pixels: np.rot90(pixels, 1), 0),
    (90, (-1, 1)): (lambda pixels: np.rot90(np.fliplr(pixels), -1), 0),
    (270, (-1, 1)): (lambda pixels: np.rot90(np.fliplr(pixels), 1), 0),
    (2, (1, 1)): (lambda pixels: pixels, 2),
    (358, (1, 1)): (lambda pixels: pixels, -2),
    (89.9, (1, 1)): (lambda pixels: np.rot90(pixels, -1), -0.1),
    (200, (1, -1)): (lambda pixels: np.rot90(np.flipud(pixels), 2), 20),
    (300, (1, 1)): (lambda pixels: np.rot90(pixels, 1), 30),
}


@pytest.mark.parametrize("case", ORIENTATIONS)
def test_pictures_come_as_players_show_them(case, tmp_path):
    turn, rest = ORIENTATIONS[case]
    matrix = display_matrix(*case)
    assert Orientation.from_matrix(matrix).rest_degrees == pytest.approx(rest, abs=0.02)
    path = encode(tmp_path / "turned.mov", bf="2", matrix=matrix)
    with av.open(str(path)) as container:
        stored = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    sampled = sample(path)
    for frame in sampled.frames:
        assert np.array_equal(frame.picture, turn(stored[frame.index]))
    expected = f"the file says {rest:.1f} degrees beside quarter turns"
    assert [expected in warning for warning in sampled.warnings] == [True] * (abs(rest) > 1)


@pytest.mark.parametrize(("rotation", "quarters"), [(0, 0), (90, 1), (-90, -1)])
def test_frames_with_exif_beside_them(rotation, quarters, tmp_path):
    path = encode(tmp_path / "a.mov", codec="tiff", pix_fmt="rgb24", rotation=rotation)
    with av.open(str(path)) as container:
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert np.array_equal(sample(path).frames[0].picture, np.rot90(stored, quarters))


def test_matrices_without_a_meaning_turn_nothing():
    pixels = picture(0, 6, 4)
    assert np.array_equal(Orientation.from_matrix([0] * 9).apply(pixels), pixels)


@pytest.mark.parametrize("window", [{}, {"start_seconds": 1.0}])
def test_a_rotation_in_the_stream_holds_for_all_frames(window, tmp_path):
    from video_llava_client.window import Window

    source = encode(tmp_path / "plain.mp4", g="12", bf="2")
    path = remux(source, tmp_path / "s.mp4", bitstream_filter="h264_metadata=rotate=90:display_orientation=insert")
    with av.open(str(path)) as container:
        assert [frame.rotation for frame in container.decode(video=0)] == [90] + [0] * (NUM_FRAMES - 1)
    plain, _ = decode_all(source)
    sampled = sample_video(MediaFile("s.mp4", path), convert=to_rgb, window=Window(**window))
    for frame in sampled.frames:
        assert np.array_equal(frame.picture, np.rot90(plain[frame.index]))
