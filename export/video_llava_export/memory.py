"""Freed memory goes back to the system, so that an export's peak is that of its largest step."""

import ctypes
import gc

_MMAP_THRESHOLD, _LARGE_BYTES = -3, 1 << 20


def give_back_at_once() -> None:
    """Make the allocator return every large block when it is freed (glibc only); it would keep those below 32 MB."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)


def give_back() -> None:
    """Collect garbage, and make the allocator return free memory (glibc only)."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
