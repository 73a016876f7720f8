"""Pixels, made in memory in the size that the server says: nothing is decoded or downloaded."""

from __future__ import annotations

import numpy as np
from video_llava_client import Clip, ClipInfo, ModelLimits


class Pixels:
    """Makes videos and images of noise; they cost the model as much as any others.

    Cold ones are drawn again each time, so no cache can have them. The `num_warm` warm ones are kept.
    """

    def __init__(self, limits: ModelLimits, *, num_warm: int) -> None:
        self._limits = limits
        self._random = np.random.Generator(np.random.SFC64())  # the fastest; seeded by the operating system
        self.warm = tuple(self.cold_clip() for _ in range(num_warm))

    def cold_clip(self) -> Clip:
        """Return a new video."""
        indices = tuple(range(self._limits.num_frames))
        return Clip(self._noise(self._limits.num_frames), ClipInfo("noise", indices, (None,) * len(indices)))

    def warm_clip(self, number: int) -> Clip:
        """Return one of the warm videos, in turn."""
        return self.warm[number % len(self.warm)]

    def cold_image(self) -> np.ndarray:
        """Return a new image, uint8 [height, width, 3]."""
        return self._noise(1)[0]

    def _noise(self, num_frames: int) -> np.ndarray:
        size = self._limits.image_size
        return np.frombuffer(self._random.bytes(num_frames * size * size * 3), np.uint8).reshape(-1, size, size, 3)
