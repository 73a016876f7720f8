"""Clips as MP4 files, and a contact sheet that shows what they hold."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
from PIL import Image, ImageDraw

FRAMES_PER_SECOND = 8
JPEG_QUALITY = 92
_MARGIN, _CAPTION_HEIGHT, _FONT_SIZE = 6, 34, 24  # pixels


def write_clip(path: Path, frames: Sequence[Image.Image], *, repeats: int = 1) -> None:
    """Encode frames of one even size as H.264, with B-frames, each shown `repeats` times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options={"crf": "18"})
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        for frame in (frame for frame in frames for _ in range(repeats)):
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode(None))


def write_contact_sheet(path: Path, rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> None:
    """Write one picture of rows of frames, all of one size, each row under its caption."""
    width, height = (side + _MARGIN for side in rows[0][1][0].size)
    num_columns = max(len(frames) for _, frames in rows)
    height += _CAPTION_HEIGHT
    sheet = Image.new("RGB", (num_columns * width + _MARGIN, len(rows) * height + _MARGIN), "white")
    pen = ImageDraw.Draw(sheet)
    for row, (caption, frames) in enumerate(rows):
        top = _MARGIN + row * height
        pen.text((_MARGIN, top), caption, fill="black", font_size=_FONT_SIZE)
        for column, frame in enumerate(frames):
            sheet.paste(frame, (_MARGIN + column * width, top + _CAPTION_HEIGHT))
    sheet.save(path)
