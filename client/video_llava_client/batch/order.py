"""The order that keeps caches warm: questions about the same media together, the first of them ahead of the others."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ..errors import VideoLlavaError
from .rows import Row

_NUM_REMEMBERED = 1024


def grouped(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with those about the same media together, in the order of the first of each."""
    places: dict[Hashable, int] = {}

    def place(numbered: tuple[int, Row]) -> int:
        number, row = numbered
        return places.setdefault(_key_of(row) or number, len(places))

    return [row for _, row in sorted(enumerate(rows), key=place)]


def _key_of(row: Row) -> Hashable:
    try:
        return media_key(row.parse())
    except VideoLlavaError:  # its record will say so
        return None


def media_key(options: Mapping[str, Any]) -> Hashable:
    """Return what is equal for the same media, by name; None for others, and where there are none."""
    media = [options.get(name) or [] for name in ("video", "images")]
    names = tuple(tuple(each) if isinstance(each, list) else (each,) for each in media)
    if names == ((), ()) or not all(isinstance(name, str) for each in names for name in each):
        return None
    return names


class Leaders:
    """Holds questions about media back until the first one about them has had a token: then the server's caches have
    the media."""

    def __init__(self) -> None:
        self._led: OrderedDict[Hashable, asyncio.Event] = OrderedDict()

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[Callable[[], None]]:
        """Wait for the first question with this key; yields what that one calls at its first token."""
        led = self._led.get(key)
        if led is not None:
            await led.wait()
        if led is not None or key is None:
            yield lambda: None
            return
        led = self._led[key] = asyncio.Event()
        if len(self._led) > _NUM_REMEMBERED:
            self._led.popitem(last=False)
        try:
            yield led.set
        finally:
            led.set()
