"""Of several video streams, the one that players show; the others are named, and can be chosen."""

from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image
from support.videos import picture
from video_llava_client import Clip, NoVideoStream, OptionError, UnreadableMedia, is_image
from video_llava_client.streams import demux

DEFAULT = Disposition.default


def write(path, *streams, container_format=None):
    """Write (codec, number of frames, width, disposition) as streams of one file; a picture's tone tells its stream."""
    with av.open(str(path), "w", format=container_format) as container:
        added: list[Any] = []
        for codec, _, width, disposition in streams:
            stream: Any = container.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = width, 64, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            added.append(stream)
        for number, (stream, (_, num_frames, width, _)) in enumerate(zip(added, streams, strict=True)):
            for index in range(num_frames):
                pixels = np.full((64, width, 3), 60 * (number + 1), np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return path


def shown(clip):
    """Return the number of the stream that the pictures are of."""
    return round(clip.frames.mean() / 60) - 1


NONE = Disposition(0)
FILMS = {
    "a_picture_first.mkv": ([("mjpeg", 1, 96, NONE), ("libx264", 48, 96, DEFAULT)], 1),
    "a_default_picture_first.mkv": ([("mjpeg", 1, 192, DEFAULT), ("libx264", 48, 96, NONE)], 1),
    "a_picture_last.mp4": ([("libx264", 48, 96, DEFAULT), ("mjpeg", 1, 192, DEFAULT)], 0),
    "the_second_is_default.mkv": ([("libx264", 30, 192, NONE), ("libx264", 30, 96, DEFAULT)], 1),
    "the_larger.ts": ([("libx264", 30, 96, NONE), ("libx264", 30, 192, NONE)], 1),
    "the_longer.ts": ([("libx264", 20, 96, NONE), ("libx264", 30, 96, NONE)], 1),
    "the_first_of_equals.mkv": ([("libx264", 30, 96, DEFAULT), ("libx264", 30, 96, DEFAULT)], 0),
    "announced_only.mkv": ([("libx264", 0, 192, DEFAULT), ("libx264", 30, 96, NONE)], 1),
}


@pytest.mark.parametrize("name", FILMS)
def test_the_film_is_shown_and_others_are_named(name, tmp_path):
    streams, expected = FILMS[name]
    path = write(tmp_path / name, *streams)
    clip = Clip.load(path, size=32)
    assert (shown(clip), clip.info.num_frames) == (expected, streams[expected][1])
    (warning,) = clip.info.warnings
    assert f"the video is {expected} (" in warning
    assert f"video_stream chooses another of 1: {1 - expected} (" in warning
    chosen = Clip.load(path, size=32, video_stream=expected)
    assert (chosen.frames == clip.frames).all()
    assert chosen.info.warnings == ()


def test_another_stream_can_be_chosen(tmp_path):
    path = write(tmp_path / "two.mkv", *FILMS["the_second_is_default.mkv"][0])
    assert shown(Clip.load(path, size=32, video_stream=0)) == 0
    with pytest.raises(OptionError, match=r"video_stream=7: the video streams of .*two\.mkv are 0, 1"):
        Clip.load(path, size=32, video_stream=7)


def test_sources_without_streams(tmp_path):
    frames = [picture(index, 64, 48) for index in range(9)]
    with pytest.raises(OptionError, match="nor have they a video_stream"):
        Clip.load(frames, size=32, video_stream=0)
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:])
    with pytest.raises(OptionError, match=r"video_stream=1: .*a\.webp has one stream, 0"):
        Clip.load(tmp_path / "a.webp", size=32, video_stream=1)


def test_an_animated_avif_is_its_film(tmp_path):
    frames = [Image.fromarray(picture(index, 64, 48)) for index in range(10)]
    frames[0].save(tmp_path / "a.avif", save_all=True, append_images=frames[1:], duration=100, quality=90)
    clip = Clip.load(tmp_path / "a.avif", size=48)
    assert (clip.info.num_frames, clip.info.warnings) == (10, ())
    for frame, index in zip(clip.frames, clip.info.indices, strict=True):
        difference = np.abs(np.asarray(frames[index])[:, 8:56].astype(int) - frame)
        assert difference.mean() < 8


def test_covers_and_thumbnails_are_no_choice(write_sound, tmp_path):
    song = write_sound(tmp_path / "song.mp3", codec="mp3", cover=True)
    with pytest.raises(NoVideoStream, match="holds no video stream"):
        Clip.load(song, size=32)
    Image.fromarray(picture(0, 64, 48)).save(tmp_path / "a.avif")
    with pytest.raises(UnreadableMedia, match="is a picture, not a video: give it as an image"):
        Clip.load(tmp_path / "a.avif", size=32)


def test_a_sequence_of_heif_is_its_film(write_video, tmp_path):
    path = write_video(tmp_path / "a.mp4", 10, codec="libx265", tag="hvc1", **{"x265-params": "log-level=none"})
    plain = Clip.load(path, size=32)
    data = path.read_bytes().replace(b"ftypisom", b"ftyphevc", 1).replace(b"vide", b"pict", 1)
    (tmp_path / "burst.heic").write_bytes(data)
    assert not is_image(tmp_path / "burst.heic")
    assert (Clip.load(tmp_path / "burst.heic", size=32).frames == plain.frames).all()


def test_a_stream_that_appears_while_the_file_is_read():
    class Container:
        def demux(self, streams: Any) -> Iterator[Any]:
            yield from streams
            raise IndexError("list index out of range")  # as PyAV 18.1 does at the end

    container: Any = Container()
    packets: Any = [1, 2]
    assert list(demux(container, packets)) == packets
