"""The videos of lines, each decoded once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from ..async_client import AsyncVideoLlava
from ..window import WindowOptions

if TYPE_CHECKING:
    from ..clip import Clip

_MAX_CORES = 8


class Videos:
    """Decodes videos, no more at a time than there are cores, but for those that may have to be waited for.

    The time of a request includes its decoding. In a queue for that, it would pass before the line is asked.
    """

    def __init__(self, client: AsyncVideoLlava) -> None:
        self._client = client
        self._cores = asyncio.Semaphore(min(_MAX_CORES, os.cpu_count() or 1))

    async def decoded(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Return the arguments of `ask` with clips in place of videos and their window, and the seconds it took."""
        others = dict(options)
        videos = others.pop("video", None)
        if not videos:
            return dict(options), 0.0
        from ..sources import may_be_silent  # text does without

        window: Any = {name: others.pop(name) for name in WindowOptions.__annotations__ if name in others}
        clips: list[Clip] = []
        seconds = 0.0
        for video in videos if isinstance(videos, list) else [videos]:
            async with nullcontext() if may_be_silent(video) else self._cores:
                started = time.monotonic()
                clips.append(await self._client.load(video, **window))
                seconds += time.monotonic() - started
        return {**others, "video": clips}, seconds
