"""Pixels, made in memory in the size that the server says: nothing is decoded, and nothing downloaded."""

from __future__ import annotations

import numpy as np
from video_llava_client import Clip, ClipInfo, ModelLimits


class Pixels:
    """Makes videos and images of noise, which cost the model as much as any others.

    Cold ones are drawn anew each time and in each run: no cache can know them. Warm ones are a few that are kept.
    """

    def __init__(self, limits: ModelLimits, *, num_warm: int) -> None:
        self._limits = limits
        self._random = np.random.Generator(np.random.SFC64())  # the fastest; seeded by the operating system
        self.warm = tuple(self.cold_clip() for _ in range(num_warm))

    def cold_clip(self) -> Clip:
        """Return a video that nobody has seen."""
        indices = tuple(range(self._limits.num_frames))
        return Clip(self._noise(self._limits.num_frames), ClipInfo("noise", indices, (None,) * len(indices)))

    def warm_clip(self, number: int) -> Clip:
        """Return one of the few, in turn."""
        return self.warm[number % len(self.warm)]

    def cold_image(self) -> np.ndarray:
        """Return an image that nobody has seen, uint8 [height, width, 3]."""
        return self._noise(1)[0]

    def _noise(self, num_frames: int) -> np.ndarray:
        size = self._limits.image_size
        return np.frombuffer(self._random.bytes(num_frames * size * size * 3), np.uint8).reshape(-1, size, size, 3)
