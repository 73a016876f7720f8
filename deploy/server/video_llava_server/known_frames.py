"""Which frames were encoded before, and are in the feature store still.

Triton's response cache knows frames by their bytes and gives the reference that the feature store gave, for however
long. So frames go to the cache with a nonce: the same one while their features are kept, a new one once they are gone,
or nearly, which the cache has not seen. Nobody else knows the nonce, or could fill the cache ahead.
"""

import secrets
from collections import OrderedDict

import numpy as np

from .runtime_folder import Window
from .tickets import NEW_FRAMES, NO_FRAMES, SEEN_FRAMES

_NUM_REMEMBERED = 2**16
_SAMPLE_STRIDE = 101


class KnownFrames:
    """For one thread."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, tuple[str, int]] = OrderedDict()

    def look(self, encoder: int, frames: np.ndarray, window: Window) -> tuple[int, str]:
        """Return what a request has for an encoder (tickets.py), and the nonce; `window` is the feature store's."""
        if not len(frames):
            return NO_FRAMES, ""
        # A sample is enough: the cache compares all frames. Those that are taken for others are encoded.
        sample = hash((encoder, frames.shape, frames.reshape(-1)[::_SAMPLE_STRIDE].tobytes()))
        nonce, number = self._seen.pop(sample, ("", -1))
        is_new = number < window.first
        if is_new:
            # Its features come later, so they get this number or a higher one.
            nonce, number = secrets.token_hex(8), window.next
        self._seen[sample] = nonce, number
        if len(self._seen) > _NUM_REMEMBERED:
            self._seen.popitem(last=False)
        return NEW_FRAMES if is_new else SEEN_FRAMES, nonce
