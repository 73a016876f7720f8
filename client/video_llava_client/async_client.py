"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc

from .answers import Answer
from .base import BaseClient, Steps
from .call import Call
from .chat import AsyncChat
from .metadata import read_token_async
from .probe import QUESTION, Probe, probe_options
from .request import AskOptions
from .server import ServerInfo
from .stream import AsyncAnswerStream
from .workers.cancellation import Cancellation

if TYPE_CHECKING:
    from .clip import Clip, VideoSource
    from .images import ImageSource

T = TypeVar("T")

_MAX_DECODERS = 8  # threads; each keeps a core busy


class AsyncVideoLlava(BaseClient):
    """A connection to a Triton server that serves Video-LLaVA, for one event loop.

    async with AsyncVideoLlava("localhost:8001") as client:
        print((await client.ask("Why is this video funny?", video="clip.mp4")).text)

    For any number of requests at a time. Its arguments are those of `BaseClient`; `token` may also be a coroutine
    function, and should be one if it waits for something. Threads of its own decode media, so the event loop never
    waits. Cancelling a task cancels its request.
    """

    _grpc = grpc.aio
    _decoders: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections and cancel every running request; those raise `Cancelled`."""
        channels = self._pool.close()
        self._end_processes()
        if self._decoders is not None:
            self._decoders.shutdown(wait=False, cancel_futures=True)
        for channel in channels:
            await channel.close()

    async def ask(self, question: str | None = None, **options: Unpack[AskOptions]) -> Answer:
        """Ask, and wait for the whole answer; arguments and errors as `VideoLlava.ask`."""
        async with self.stream(question, **options) as stream:
            async for _ in stream:
                pass
        return stream.answer

    def stream(self, question: str | None = None, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """Ask as `ask` does, and get the answer while it is generated.

        Media are decoded, and the request is sent, when the `async with` block of the stream begins.
        """
        request = self._request(question, options)
        return AsyncAnswerStream(lambda: self._run(self._prepare(request, time.perf_counter())), self._settings.token)

    async def load(
        self, video: VideoSource, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> Clip:
        """Decode a video once, in the server's frame size; errors as `VideoLlava.load`."""
        return await self._run(self._load(video, start_seconds, end_seconds))

    async def chat(
        self,
        *,
        video: VideoSource | Sequence[VideoSource] | None = None,
        images: ImageSource | Sequence[ImageSource] = (),
    ) -> AsyncChat:
        """Begin a conversation as `VideoLlava.chat` does."""
        return AsyncChat(self.stream, await self._run(self._begin_chat(video, images)))

    async def probe(self, *, media: bool = False) -> Probe:
        """Let the server generate one token, as `VideoLlava.probe` does."""
        frame_size = await self._run(self._frame_size("video_encoder")) if media else None
        return Probe.from_answer(await self.ask(QUESTION, **probe_options(frame_size)))

    async def info(self) -> ServerInfo:
        """Return the server's version, its models and the sizes they take, as `VideoLlava.info` does."""
        return await self._run(self._ask_info())

    async def _run(self, steps: Steps[T]) -> T:
        resume = partial(next, steps)
        while True:
            try:
                step = resume()
            except StopIteration as end:
                return end.value
            try:
                result = await (self._finish(step) if isinstance(step, Call) else self._in_thread(step))
            except Exception as exc:  # noqa: BLE001 (the generator gets it)
                resume = partial(steps.throw, exc)
            else:
                resume = partial(steps.send, result)

    async def _finish(self, call: Call) -> Any:
        while True:
            try:
                return await call.send(await read_token_async(self._settings.token))
            except grpc.RpcError as exc:
                seconds = call.retry_delay(call.error_from(exc))
            await asyncio.sleep(seconds)

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        self._pool.check_open()
        if self._decoders is None:
            num_threads = min(_MAX_DECODERS, os.cpu_count() or 1)
            if self._processes is not None:
                num_threads = self._processes.num_processes  # each waits for one
            self._decoders = ThreadPoolExecutor(num_threads, thread_name_prefix="video-llava-decoder")
        cancellation = Cancellation()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._decoders, cancellation.run, work)
        except asyncio.CancelledError:
            cancellation.cancel()
            raise
