#!/bin/bash
# PyAV 18.1.0: one kind of side data that it does not know makes all of a frame's side data unreadable.
#
# Expected: `frame.side_data` has what PyAV knows, such as DISPLAYMATRIX, and leaves out or wraps what it does not.
# Real:     ValueError "31 is not a valid Type", for any JPEG with EXIF: FFmpeg 8 attaches it to the frame, and PyAV has
#           no name for that kind. The display matrix beside it cannot be had.
# So what:  a reader of orientations needs a second way (`frame.rotation`, which does not see mirroring).
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 pillow==12.0.0
"$folder/venv/bin/python" - <<'END'
import io

import av
from PIL import Image

ORIENTATION = 0x0112


def side_data(exif):
    file = io.BytesIO()
    Image.new("RGB", (64, 48)).save(file, "JPEG", exif=exif)
    file.seek(0)
    with av.open(file) as container:
        frame = next(container.decode(video=0))
        try:
            return [each.type.name for each in frame.side_data]
        except ValueError as exc:
            return f"ValueError: {exc}"


turned = Image.Exif()
turned[ORIENTATION] = 6
plain, with_exif = side_data(Image.Exif()), side_data(turned)
print(f"without EXIF: {plain}")
print(f"with EXIF: {with_exif}")
assert plain == []
assert with_exif == "ValueError: 31 is not a valid Type"
END
