"""Frames that the caller has: arrays, tensors, Pillow images and folders; and frames named by index or by second."""

import re
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.videos import picture
from video_llava_client import Clip, MediaError, NoFrames, OptionError, UnreadableMedia, is_image, load_image
from video_llava_client.cli import app
from video_llava_client.cli.arguments import MediaPaths
from video_llava_client.clip import as_videos

PIXELS = [picture(index, 64, 48) for index in range(24)]
CLIP = Clip.load(PIXELS, size=32)
load: Any = Clip.load  # takes what its types do not
TENSORS = torch.from_numpy(np.stack(PIXELS))


@pytest.mark.parametrize(
    "frames",
    [
        np.stack(PIXELS),
        np.stack(PIXELS).transpose(0, 3, 1, 2),
        TENSORS,
        TENSORS.permute(0, 3, 1, 2),
        list(TENSORS),
        list(TENSORS.permute(0, 3, 1, 2)),
        tuple(Image.fromarray(pixels) for pixels in PIXELS),
        [Image.fromarray(pixels) if number % 2 else pixels for number, pixels in enumerate(PIXELS)],
    ],
)
def test_frames_in_memory_are_one_video(frames):
    (video,) = as_videos(frames)
    for source in (frames, video):
        clip = Clip.load(source, size=32)
        assert (clip.frames == CLIP.frames).all()
        assert clip.info == CLIP.info


def test_videos_in_a_sequence_are_several():
    films = [np.stack(PIXELS), PIXELS, "a.mp4", CLIP]
    assert len(as_videos(films)) == 4
    assert as_videos([]) == ()


class Requiring:
    """An array that cannot become one of NumPy's."""

    ndim = 3

    def __array__(self, *_args, **_options):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda: load(["a.mp4", "b.mp4"], size=32),
            MediaError,
            "element 0 of 2 is no frame but a str: give videos",
        ),
        (
            lambda: load([CLIP, CLIP], size=32),
            MediaError,
            "element 0 of 2 is no frame but a Clip: give videos to ask",
        ),
        (lambda: load([np.stack(PIXELS)] * 2, size=32), MediaError, "no frame but a ndarray of 4 dimensions"),
        (lambda: as_videos([PIXELS[0], "a.mp4"]), MediaError, "element 1 of 2 is no frame but a str"),
        (lambda: as_videos(["a.mp4", PIXELS[0]]), MediaError, "element 0 of 2 is no frame but a str"),
        (
            lambda: load(TENSORS / 255, size=32),
            MediaError,
            r"frames\[0\]: expected .* got float32\[48, 64, 3\]: multiply numbers from 0 to 1 by 255",
        ),
        (
            lambda: load([Requiring()], size=32),
            MediaError,
            r"frames\[0\]: cannot become an array of NumPy \(can't",
        ),
        (lambda: load(PIXELS, size=32, frame_seconds=range(8)), OptionError, "frames have no times"),
        (
            lambda: load(PIXELS, size=32, frame_indices=range(20, 28)),
            NoFrames,
            "frames: has no frame 27 of frame_i",
        ),
        (lambda: load(CLIP, size=32, frame_indices=range(8)), OptionError, "this clip is decoded, load it again"),
        (
            lambda: load(np.zeros((0, 4, 4, 3), np.uint8), size=32),
            NoFrames,
            "frames: there are none: give at least one",
        ),
        (lambda: load(np.array(None), size=32), MediaError, r"frames: expected pixels .* got object\[\]"),
        (
            lambda: load(PIXELS, size=32, frames=8),
            TypeError,
            "unexpected keyword arguments frames; known are start_s",
        ),
    ],
)
def test_what_is_no_video(use, error, message):
    with pytest.raises(error, match=message):
        use()


def test_tensors_that_need_gradients_and_images():
    image = TENSORS[3].permute(2, 0, 1)
    assert (load_image(image, size=32) == load_image(PIXELS[3], size=32)).all()


@pytest.fixture
def folder(tmp_path):
    for index, pixels in enumerate(PIXELS):
        Image.fromarray(pixels).save(tmp_path / f"frame{index + 1}.png")
    return tmp_path


def test_a_folder_of_frames(folder):
    for source in (folder, str(folder)):
        clip = Clip.load(source, size=32)
        assert (clip.frames == CLIP.frames).all()
        assert (clip.info.source, clip.info.num_frames, clip.info.warnings) == (str(folder), 24, ())
        assert clip.info.indices == (0, 3, 6, 9, 12, 15, 18, 21)
    assert not is_image(folder)
    chosen = Clip.load(folder, size=32, frame_indices=[23, 0, 0, 1, 2, 3, 4, 5])
    assert (chosen.frames[0] == load_image(PIXELS[23], size=32)).all()
    assert (chosen.frames[1] == chosen.frames[2]).all()


def test_what_else_is_in_a_folder(folder):
    (folder / "notes.txt").write_text("twelve frames")
    (folder / ".DS_Store").write_text("")
    Image.fromarray(PIXELS[23]).resize((30, 90)).save(folder / "frame24.png")
    assert Clip.load(folder, size=32).info.warnings == ("folder: 1 files that are no pictures are left out: notes.txt",)
    (folder / "frame1.png").write_text("no picture")
    with pytest.raises(UnreadableMedia, match=r"frame1\.png: cannot be read as an image"):
        Clip.load(folder, size=32)
    with pytest.raises(OptionError, match="frames have no times, choose among them, or by frame_indices"):
        Clip.load(folder, size=32, start_seconds=1)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.gif", "raw.h264"])
def test_frames_by_index(name, write_video, tmp_path):
    codec = {"codec": "gif", "pix_fmt": "rgb8"} if name.endswith("gif") else {"g": "9", "bf": "2"}
    path = write_video(tmp_path / name, 40, **codec)
    wanted = (39, 3, 3, 17, 0, 1, 22, 8)
    clip = Clip.load(path, size=32, frame_indices=np.array(wanted))
    assert clip.info.indices == wanted
    for frame, index in zip(clip.frames, wanted, strict=True):
        alone = Clip.load(path, size=32, frame_indices=[index] * 8)
        assert (frame == alone.frames[0]).all()
        assert (alone.info.pts_seconds[0], alone.info.num_frames) == (clip.info.pts_seconds[wanted.index(index)], 40)


def test_frames_by_second(write_video, tmp_path):
    # Shown at 0, 0.04, then every 0.2 s.
    path = write_video(tmp_path / "vfr.mp4", 30, times=lambda index: index if index < 2 else 5 * index - 5, bf="2")
    clip = Clip.load(path, size=32, frame_seconds=[0, 0.04, 0.039, 0.2, 0.399, 0.4, 5.6, 5.7])
    assert clip.info.indices == (0, 1, 0, 2, 2, 3, 29, 29)
    with pytest.raises(NoFrames, match=r"no frame is shown at 7 s, the last is at 5\.60 s: give another frame_seconds"):
        Clip.load(path, size=32, frame_seconds=[0, 1, 2, 3, 4, 5, 6, 7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frame_indices": [1, 2]}, "frame_indices must be 8 numbers, the model's frames, got 2: [1, 2]"),
        ({"frame_indices": [-1] * 8}, "got 8: [-1, -1"),
        ({"frame_indices": [0.5] * 8}, "got 8: [0.5, 0.5"),
        ({"frame_seconds": [float("nan")] * 8}, "got 8: [nan, nan"),
        (
            {"frame_seconds": range(8), "start_seconds": 1},
            "give one of start_seconds and end_seconds, frame_indices, or",
        ),
        ({"frame_seconds": range(8), "frame_indices": range(8)}, "give one of start_seconds and end_seconds"),
    ],
)
def test_frames_that_cannot_be_chosen(options, message, bikes):
    with pytest.raises(OptionError, match=re.escape(message)):
        Clip.load(bikes, size=32, **options)


def test_a_question_about_frames_by_second(client, server, bikes):
    clip = client.load(bikes, frame_seconds=range(8))
    assert client.ask("What?", video=bikes, frame_seconds=range(8)).frames == (clip.info,)
    assert client.ask("What?", video=PIXELS).frames[0].num_frames == 24
    assert client.ask("What?", video=[PIXELS, np.stack(PIXELS)]).frames[1].num_frames == 24
    assert server.requests


def test_the_command_line_takes_folders_and_streams(folder, tmp_path, bikes):
    def run(*arguments):
        return CliRunner().invoke(app, ["frames", *map(str, arguments), "-o", str(tmp_path / "sheet.png")])

    assert f"frames of {folder}: 0, 3, 6, 9, 12, 15, 18, 21" in run(folder).stdout
    refused = run(bikes, "--video-stream", 3)
    assert refused.exit_code == 2
    assert "video_stream=3: the video streams of" in refused.stderr
    with ExitStack() as opened:
        assert MediaPaths.from_arguments([str(folder)], opened) == MediaPaths(videos=(str(folder),), images=())
