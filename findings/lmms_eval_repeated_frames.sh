#!/bin/bash
# lmms-eval 0.7.3 sends some frames of a video twice, and others never.
#
# Expected: ChatMessages.to_openai_messages sends each frame that fetch_video returns, in order.
# Real:     in most messages a frame is replaced by an earlier one. Encoded pictures are kept by id() of an image that is
#           freed before the next, and Python gives the next one the same id. Seen: 94 and 98 of 100 messages.
# So what:  scores of videos through its model `openai` may not be those of the model.
#
# Prints what it saw; exit code 1 if any of it has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet loguru numpy==2.4.6 pillow==13.0.0 pydantic
"$folder/venv/bin/pip" install --quiet --no-deps lmms-eval==0.7.3
"$folder/venv/bin/python" - <<'END'
import base64
import io

import numpy as np
from lmms_eval import protocol
from PIL import Image


class Frame:
    """As a tensor [3, height, width] in the place that is used of it."""

    def __init__(self, number):
        self.pixels = np.full((48, 64, 3), 20 * number, np.uint8)

    def permute(self, *_):
        return self

    def numpy(self):
        return self.pixels


# Instead of qwen_vl_utils, which needs torch: ten frames, each brighter than the one before.
protocol.fetch_video = lambda _video: [Frame(number) for number in range(10)]
content = [{"type": "video", "url": "clip.mp4"}]


def shown():
    """Return the numbers of the frames that are sent."""
    (message,) = protocol.ChatMessages(messages=[{"role": "user", "content": content}]).to_openai_messages()
    pictures = [base64.b64decode(part["image_url"]["url"].partition(",")[2]) for part in message["content"]]
    return [Image.open(io.BytesIO(each)).getpixel((0, 0))[0] // 20 for each in pictures]


messages = [shown() for _ in range(100)]
wrong = [each for each in messages if each != list(range(10))]
print(f"{len(wrong)} of 100 messages do not have frames 0 to 9; the last of them has {wrong[-1:]}")
assert wrong
END
