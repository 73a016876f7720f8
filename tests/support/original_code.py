"""What the code that trained Video-LLaVA computes: data made by running it, which anybody can repeat.

PKU-YuanGroup/Video-LLaVA at commit 984e65b with torch 2.0.1, torchvision 0.15.2, transformers 4.31.0, pytorchvideo
0.1.5 and NumPy 1.26, in float32 on a CPU, on the checkpoint of `python -m video_llava_export.random_checkpoint DIR
--layout original`. Two changes: the towers' folders are those in DIR, and the random mirror of its video transform is
off (its `p` is 0).

In `original/arrays.npz`:

- `video_features`: `encode_videos` of `picture(100, (8, 224, 224, 3))`
- `image_features`: `encode_images` of `picture(101, (224, 224, 3))`
- `video_pixels_NAME`, `image_pixels_NAME`: every 16th row and column of what its video transform, or `process_images`,
  makes of a picture of `PICTURES[NAME]`

`original/answers.json` has for each of `cases`, `mixed` (an image and a video) and `turns` (two of them) the ids that
`tokenizer_image_token` makes of the evaluation's prompt (-200 for a frame or an image) and 16 tokens of `generate`,
greedy. There `decord` decodes a video; here its frames are `picture(seed, shape)`, of which `linspace` takes eight.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "original"
ANSWERS: dict[str, Any] = json.loads((FOLDER / "answers.json").read_text(encoding="utf-8"))
PICTURES = {"landscape": (102, (240, 320)), "portrait": (103, (321, 181)), "small": (104, (90, 131))}
NUM_TOKENS = 16


def picture(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Squares of 16 pixels in random colours, neither dark nor bright, uint8, shape = (..., height, width, 3)."""
    *lead, height, width, channels = shape
    squares = (*lead, -(-height // 16), -(-width // 16), channels)
    small = np.random.default_rng(seed).integers(32, 224, squares, dtype=np.uint8)
    return small.repeat(16, axis=-3).repeat(16, axis=-2)[..., :height, :width, :]


def arrays() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "arrays.npz") as saved:
        return dict(saved)
