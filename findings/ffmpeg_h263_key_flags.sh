#!/bin/bash
# FFmpeg 8 flags every packet of H.263 as a key frame once it is in Matroska or AVI.
#
# Expected: after `ffmpeg -c copy` from 3GP, the same packets are flagged as before: one in twelve.
# Real:     all 48 are, in both containers; the decoder finds 4 key frames in each. A seek lands on a frame that needs
#           others, and what is decoded from there looks broken, without an error.
# So what:  a flag is not enough to begin to decode at; the type of the first decoded picture is.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet av==18.1.0 imageio-ffmpeg==0.6.0
"$folder/venv/bin/python" - "$folder" <<'END'
import subprocess
import sys

import av
import imageio_ffmpeg

folder = sys.argv[1]
quiet = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-loglevel", "error", "-nostdin", "-y"]
source = ["-f", "lavfi", "-i", "mandelbrot=s=176x144:r=24", "-t", "2", "-pix_fmt", "yuv420p", "-c:v", "h263", "-g", "12"]
subprocess.run([*quiet, *source, f"{folder}/video.3gp"], check=True)
for name in ("mkv", "avi"):
    subprocess.run([*quiet, "-i", f"{folder}/video.3gp", "-c", "copy", f"{folder}/video.{name}"], check=True)
seen = {}
for name in ("3gp", "mkv", "avi"):
    with av.open(f"{folder}/video.{name}") as container:
        num_flagged = sum(packet.is_keyframe for packet in container.demux(video=0) if packet.size)
    with av.open(f"{folder}/video.{name}") as container:
        num_keys = sum(frame.pict_type == av.video.frame.PictureType.I for frame in container.decode(video=0))
    seen[name] = num_flagged, num_keys
    print(f"{name}: {num_flagged} packets are flagged, {num_keys} frames are key frames")
assert seen == {"3gp": (4, 4), "mkv": (48, 4), "avi": (48, 4)}
END
