"""The model's numbers: those of Video-LLaVA-7B where they are its geometry, smaller where they are its size.

Frames, patches and positions are the 7B's (8 frames of 224 x 224, 257 tokens each). Widths and depths are a quarter of
it, so that encoder : prefill : decode keep their shares of its time; key-value heads are grouped, where the 7B has one
for each, so that a video's cache keeps its share of the weights' bytes.
"""

from dataclasses import dataclass

IMAGE_SIZE, PATCH_SIZE, NUM_FRAMES = 224, 14, 8
TOKENS_PER_FRAME = (IMAGE_SIZE // PATCH_SIZE) ** 2 + 1
VIDEO_TOKENS = NUM_FRAMES * TOKENS_PER_FRAME
HEAD_WIDTH = 128
TOWER_HEAD_WIDTH = 64
MAX_POSITIONS = 4096
NUM_PIECES, VOCAB_SIZE = 1000, 4096


@dataclass(frozen=True)
class Shape:
    """Widths and depths; those without `tower` are the language model's."""

    tower_width: int
    tower_layers: int
    width: int
    layers: int
    mlp_width: int
    kv_heads: int


FULL = Shape(tower_width=256, tower_layers=6, width=1024, layers=8, mlp_width=2752, kv_heads=2)
QUICK = Shape(tower_width=128, tower_layers=3, width=256, layers=3, mlp_width=704, kv_heads=2)
# Layers of the 7B's widths, as few as there can be: two of the tower, one of the language model with next to no MLP.
WIDE = Shape(tower_width=1024, tower_layers=3, width=4096, layers=1, mlp_width=256, kv_heads=32)
