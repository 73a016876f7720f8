"""How many rows are worked on, decoded ahead included: by their number, and by the bytes of their media."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

MAX_MEDIA_BYTES = 2**29
"""Half a gigabyte: some 200 videos of the 7B, decoded and as requests, more than a GPU has in its batch."""


class Room:
    """Lets rows in, in turn.

    Args:
        max_bytes: Of media in memory; a row alone may have more.
        num_rows: How many may be in at a time; asked whenever one wants in.
    """

    def __init__(self, max_bytes: int, num_rows: Callable[[], int]) -> None:
        self._max_bytes = max_bytes
        self._num_rows = num_rows
        self._num_held = self._num_bytes = 0
        self._typical_bytes: int | None = None  # that rows grow by; the first one is alone until it is known
        self._changed = asyncio.Event()

    async def enter(self, num_bytes: int) -> None:
        """Wait until there is room for a row with media of so many bytes."""
        while self._num_held and not self._has_room(num_bytes):
            self._changed.clear()
            await self._changed.wait()
        self._num_held += 1
        self._num_bytes += num_bytes

    @asynccontextmanager
    async def leaving(self, num_bytes: int) -> AsyncIterator[Callable[[int], None]]:
        """The row leaves with the block; yields what is told how many bytes more it has got."""
        more = 0

        def grow(grown: int) -> None:
            nonlocal more
            more += grown
            self._num_bytes += grown
            self._typical_bytes = max(self._typical_bytes or 0, grown)
            self._changed.set()

        try:
            yield grow
        finally:
            self._num_held -= 1
            self._num_bytes -= num_bytes + more
            self._changed.set()

    def _has_room(self, num_bytes: int) -> bool:
        if self._typical_bytes is None:
            return False
        fits = self._num_bytes + num_bytes + self._typical_bytes <= self._max_bytes
        return fits and self._num_held < self._num_rows()
