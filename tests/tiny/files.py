"""Scenes as the files that people have: clips as MP4, pictures as JPEG, and a contact sheet to check answers by."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageDraw

FRAMES_PER_SECOND = 8
_MARGIN, _CAPTION_HEIGHT, _FONT_SIZE = 6, 34, 24


def write_clip(path: Path, frames: Sequence[Image.Image]) -> None:
    """Encode frames of one even size as H.264, with B-frames, at FRAMES_PER_SECOND."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18"})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))


def write_picture(path: Path, picture: Image.Image) -> None:
    """Write a JPEG."""
    picture.save(path, quality=92)


def write_contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> None:
    """Write a picture of several rows of frames, each under its caption."""
    width = max(sum(frame.width + _MARGIN for frame in frames) for _, frames in rows) + _MARGIN
    height = sum(_row_height(frames) for _, frames in rows) + _MARGIN
    sheet = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(sheet)
    top = _MARGIN
    for caption, frames in rows:
        pen.text((_MARGIN, top), caption, fill="black", font_size=_FONT_SIZE)
        for number, frame in enumerate(frames):
            sheet.paste(frame, (_MARGIN + number * (frame.width + _MARGIN), top + _CAPTION_HEIGHT))
        top += _row_height(frames)
    sheet.save(path)


def _row_height(frames: Sequence[Image.Image]) -> int:
    return max(frame.height for frame in frames) + _CAPTION_HEIGHT + _MARGIN
