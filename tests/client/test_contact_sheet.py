"""The contact sheet shows the frames as they are."""

from dataclasses import replace

import numpy as np
from PIL import Image
from video_llava_client import Clip, write_contact_sheet
from video_llava_client.contact_sheet import draw_contact_sheet


def test_every_frame_is_on_the_sheet(bikes, tmp_path):
    clip = Clip.load(bikes, size=56)
    write_contact_sheet(clip, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    for position, frame in enumerate(clip.frames):
        row, column = divmod(position, 4)
        top, left = 36 + row * 84, 8 + column * 64
        assert np.array_equal(sheet[top : top + 56, left : left + 56], frame)


def test_times_and_warnings_are_written(bikes):
    clip = Clip.load(bikes, size=56)
    info = replace(clip.info, pts_seconds=(None,) * 8)
    hours = replace(clip.info, pts_seconds=(5000.5,) * 8, warnings=("truncated",))
    sheets = [np.asarray(draw_contact_sheet(Clip(clip.frames, each))) for each in (clip.info, info, hours)]
    assert not np.array_equal(sheets[0], sheets[1])
    assert not np.array_equal(sheets[0][:36], sheets[2][:36])
