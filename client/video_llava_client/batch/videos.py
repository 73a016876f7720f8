"""The videos of lines, each decoded once."""

from __future__ import annotations

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..async_client import AsyncVideoLlava
from ..window import WindowOptions

if TYPE_CHECKING:
    from ..clip import Clip

MAX_CORES = 8
_NUM_KEPT = 32  # the 7B's: 38 MB


@dataclass
class _Kept:
    """A video that one line decodes for all."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    clip: Clip | None = None


class Videos:
    """Decodes videos, no more at a time than there are cores, but for those that may have to be waited for.

    The time of a request includes its decoding. In a queue for that, it would pass before the line is asked. The last
    ones are kept for other questions about them.

    Attributes:
        can_decode: Whether the server has said how it wants frames: then decoding asks it no more.
    """

    def __init__(self, client: AsyncVideoLlava) -> None:
        self.can_decode: bool = False
        self._client = client
        self._cores = asyncio.Semaphore(min(MAX_CORES, os.cpu_count() or 1))
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    async def decoded(self, options: Mapping[str, Any], grow: Callable[[int], None]) -> tuple[dict[str, Any], float]:
        """Return the arguments of `ask` with clips in place of videos and their window, and the seconds it took.

        `grow` is told the bytes of their frames, here and in the request.
        """
        others = dict(options)
        videos = others.pop("video", None)
        if not videos:
            grow(0)
            return dict(options), 0.0
        from ..sources import may_be_silent  # text does without

        window: Any = {name: others.pop(name) for name in WindowOptions.__annotations__ if name in others}
        clips: list[Clip] = []
        seconds = 0.0
        for video in videos if isinstance(videos, list) else [videos]:
            kept = self._keep(video, window)
            async with kept.lock:
                if kept.clip is None:
                    async with nullcontext() if may_be_silent(video) else self._cores:
                        started = time.monotonic()
                        kept.clip = await self._client.load(video, **window)
                        seconds += time.monotonic() - started
            clips.append(kept.clip)
        self.can_decode = True
        grow(2 * sum(clip.frames.nbytes for clip in clips))
        return {**others, "video": clips}, seconds

    def _keep(self, video: Any, window: Mapping[str, Any]) -> _Kept:
        if not isinstance(video, str):
            return _Kept()
        key = video, repr(window)
        kept = self._kept.setdefault(key, _Kept())
        self._kept.move_to_end(key)
        if len(self._kept) > _NUM_KEPT:
            self._kept.popitem(last=False)
        return kept
