"""One request to Triton for each choice, cancelled together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from video_llava_client import Answer, AsyncAnswerStream, Delta


class Generation:
    """The answers to one request.

    Each of `n` choices is a request of its own, with seeds as the server gives to sequences of one: so each has the
    client's deadline, cancelling and replicas, and the answer is that of `n` in one request. The others begin with the
    first token of the first: by then the encoder and the prefix cache have what they share.

    Attributes:
        answers: Those that are complete, by choice.
    """

    def __init__(self, streams: Sequence[AsyncAnswerStream]) -> None:
        self.answers: dict[int, Answer] = {}
        self._streams = streams

    async def deltas(self) -> AsyncGenerator[tuple[int, Delta], None]:
        """Yield each delta with the number of its choice; leaving cancels all."""
        if len(self._streams) == 1:
            async with aclosing(self._read(0)) as own:
                async for delta in own:
                    yield 0, delta
            return
        # None: this choice is complete.
        queue: asyncio.Queue[tuple[int, Delta | Exception | None]] = asyncio.Queue(len(self._streams))
        tasks = [asyncio.create_task(self._pump(0, queue))]
        num_open = len(self._streams)
        try:
            while num_open:
                index, delta = await queue.get()
                if isinstance(delta, Exception):
                    raise delta
                if len(tasks) == 1:
                    tasks += [asyncio.create_task(self._pump(other, queue)) for other in range(1, num_open)]
                if delta is None:
                    num_open -= 1
                else:
                    yield index, delta
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _read(self, index: int) -> AsyncGenerator[Delta, None]:
        async with self._streams[index] as stream:
            async for delta in stream:
                yield delta
            self.answers[index] = stream.answer

    async def _pump(self, index: int, queue: asyncio.Queue[tuple[int, Delta | Exception | None]]) -> None:
        try:
            async for delta in self._read(index):
                await queue.put((index, delta))
            await queue.put((index, None))
        except Exception as exc:  # noqa: BLE001 (`deltas` raises it)
            await queue.put((index, exc))
