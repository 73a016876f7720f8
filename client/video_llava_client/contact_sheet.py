"""The frames that the model sees of a video, as one picture."""

from os import PathLike

from PIL import Image, ImageDraw, ImageFont

from .clip import Clip, ClipInfo

_NUM_COLUMNS = 4
_MARGIN, _LINE, _FONT_SIZE = 8, 20, 14  # pixels
_PAPER, _INK, _FAINT = "white", "black", "#666666"


def write_contact_sheet(clip: Clip, path: str | PathLike[str]) -> None:
    """Write the frames of `clip` with their times to `path`, in the format of its suffix, such as .png.

    Raises:
        OSError: It cannot be written.
        ValueError: The suffix is not one of a picture.
    """
    draw_contact_sheet(clip).save(path)


def draw_contact_sheet(clip: Clip) -> Image.Image:
    """Return the frames of `clip` in two rows, each with its index and time, under a headline."""
    num_frames, height, width, _ = clip.frames.shape
    cell_width, cell_height = width + _MARGIN, height + _LINE + _MARGIN
    num_rows = -(-num_frames // _NUM_COLUMNS)
    size = (_NUM_COLUMNS * cell_width + _MARGIN, _LINE + _MARGIN + num_rows * cell_height + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (_MARGIN, _MARGIN), _headline(clip.info), _INK, width=size[0] - 2 * _MARGIN)
    for position, (frame, caption) in enumerate(zip(clip.frames, _captions(clip.info), strict=True)):
        row, column = divmod(position, _NUM_COLUMNS)
        left, top = _MARGIN + column * cell_width, _LINE + 2 * _MARGIN + row * cell_height
        sheet.paste(Image.fromarray(frame), (left, top))
        _write(draw, (left, top + height + 2), caption, _FAINT, width=width)
    return sheet


def _headline(info: ClipInfo) -> str:
    facts = [info.source]
    if info.num_frames is not None:
        facts.append(f"{info.num_frames} frames")
    if info.duration_seconds is not None:
        facts.append(_clock(info.duration_seconds))
    return "  ·  ".join([*facts, *info.warnings])


def _captions(info: ClipInfo) -> list[str]:
    return [
        f"#{index}" if seconds is None else f"#{index}  {_clock(seconds)}"
        for index, seconds in zip(info.indices, info.pts_seconds, strict=True)
    ]


def _clock(seconds: float) -> str:
    """Return such as 1:02:03.45."""
    minutes, seconds_left = divmod(abs(seconds), 60)
    hours, minutes = divmod(int(minutes), 60)
    sign = "-" if seconds < 0 else ""
    return f"{sign}{hours}:{minutes:02}:{seconds_left:05.2f}" if hours else f"{sign}{minutes}:{seconds_left:05.2f}"


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, ink: str, *, width: int) -> None:
    """Write one line, without its beginning if it is longer than `width`: the end of a path says more."""
    font = ImageFont.load_default(_FONT_SIZE)
    shown = text
    while shown and draw.textlength(shown, font=font) > width:
        shown = shown[1:] if shown == text else shown[2:]
        shown = "…" + shown
    draw.text(at, shown, fill=ink, font=font)
