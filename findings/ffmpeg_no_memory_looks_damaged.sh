#!/bin/bash
# FFmpeg 8 (in PyAV 18.1.0): a good H.264 file looks damaged where memory is short.
#
# Expected: an allocation that fails under a limit of the process (RLIMIT_DATA) is a MemoryError, AVERROR(ENOMEM).
# Real:     InvalidDataError, "Invalid data found when processing input", as for a broken file.
# So what:  a process that decodes under a hard limit of memory cannot tell files that are too large from damaged ones.
#           Watch its memory from outside, and let the hard limit be far above that.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 numpy==2.2.6
cat > "$folder/decode.py" <<'END'
import resource
import sys
from pathlib import Path

import av

path, mebibytes = sys.argv[1], int(sys.argv[2])
data_bytes = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (data_bytes + mebibytes * 2**20,) * 2)
try:
    with av.open(path) as container:
        container.streams.video[0].thread_type = "NONE"
        print(sum(1 for _ in container.decode(video=0)), "frames")
except (av.error.FFmpegError, MemoryError) as exc:
    print(type(exc).__name__)
END
"$folder/venv/bin/python" - "$folder" <<'END'
import subprocess
import sys

import av
import numpy as np

folder = sys.argv[1]
with av.open(f"{folder}/good.mp4", "w") as output:
    stream = output.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 1920, 1088, "yuv420p"
    for number in range(8):
        picture = np.full((1088, 1920, 3), number * 20, np.uint8)
        output.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
    output.mux(stream.encode())
seen = []
for mebibytes in (400, 14):
    command = [sys.executable, f"{folder}/decode.py", f"{folder}/good.mp4", str(mebibytes)]
    seen.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    print(f"{mebibytes} MiB more than at the start: {seen[-1]}")
assert seen == ["8 frames", "InvalidDataError"]
END
