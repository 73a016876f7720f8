"""The client for asyncio: what `VideoLlava` does, without ever holding up the event loop."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import numpy as np

from .answers import Answer
from .async_chat import AsyncChat
from .async_stream import AsyncAnswerStream
from .base import BaseClient, Call
from .channel import open_async_channel
from .errors import ServerError
from .exchange import Exchange
from .history import History
from .media import Clip, ImageSource, VideoSource, load_image
from .metadata import read_token_async
from .probe import QUESTION, Probe, probe_options, probed
from .request import AskOptions, as_images, as_videos
from .server import ServerInfo, ask_info
from .triton import messages

T = TypeVar("T")

# Decoding takes a processor each; more at once would only wait for each other.
_MAX_DECODERS = 8


class AsyncVideoLlava(BaseClient):
    """A connection to a Triton server that serves Video-LLaVA, for one event loop.

    async with AsyncVideoLlava("localhost:8001") as client:
        print((await client.ask("Why is this video funny?", video="clip.mp4")).text)

    For any number of requests at a time. Its arguments are those of `BaseClient`; `token` may also be a coroutine
    function, and should be one if it waits for something. Media are decoded by a few threads of its own. A task that
    is cancelled cancels its request.
    """

    _decoders: ThreadPoolExecutor | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections and cancel every request under way; those raise `Cancelled`."""
        channels = self._pool.close()
        if self._decoders is not None:
            self._decoders.shutdown(wait=False, cancel_futures=True)
        for channel in channels:
            await channel.close()

    async def ask(self, question: str | None = None, **options: Unpack[AskOptions]) -> Answer:
        """Ask, and wait for the whole answer; arguments and errors are those of `VideoLlava.ask`."""
        async with self.stream(question, **options) as stream:
            async for _ in stream:
                pass
        return stream.answer

    def stream(self, question: str | None = None, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """Ask as `ask` does, and get the answer while it is written.

        Media are decoded, and the request is sent, where the `async with` block of the stream begins.
        """
        return self._prepare(question, options)

    async def load(
        self, video: VideoSource, *, start_seconds: float | None = None, end_seconds: float | None = None
    ) -> Clip:
        """Decode a video once, in the server's frame size; errors are those of `VideoLlava.load`."""
        size, limits = await self._frame_size("video_encoder"), self._media_limits
        load = partial(Clip.load, video, size=size, start_seconds=start_seconds, end_seconds=end_seconds, limits=limits)
        return await self._in_thread(load)

    async def chat(
        self,
        *,
        video: VideoSource | Sequence[VideoSource] | None = None,
        images: ImageSource | Sequence[ImageSource] = (),
    ) -> AsyncChat:
        """Begin a conversation as `VideoLlava.chat` does."""
        clips = [source if isinstance(source, Clip) else await self.load(source) for source in as_videos(video)]
        return AsyncChat(self, History(clips, [await self._load_image(source) for source in as_images(images)]))

    async def probe(self, *, media: bool = False) -> Probe:
        """Let the server generate one token, as `VideoLlava.probe` does."""
        frame_size = await self._frame_size("video_encoder") if media else 0
        return probed(await self.ask(QUESTION, **probe_options(media=media, frame_size=frame_size)))

    async def info(self) -> ServerInfo:
        """Ask the server for its version, its models and what they take, as `VideoLlava.info` does."""
        return await self._run(ask_info(self.url, self._settings.model))

    def _prepare(self, question: str | None, options: AskOptions) -> AsyncAnswerStream:
        request = self._request(question, options)

        async def prepare() -> Exchange:
            started = time.perf_counter()
            frame_sizes = {encoder: await self._frame_size(encoder) for encoder in request.encoders}
            outgoing = await self._in_thread(partial(self._outgoing, request, frame_sizes))
            return self._exchange(outgoing, started)

        return AsyncAnswerStream(prepare, self._settings.token)

    async def _load_image(self, source: ImageSource) -> np.ndarray:
        size = await self._frame_size("image_encoder")
        return await self._in_thread(partial(load_image, source, size=size, limits=self._media_limits))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        self._pool.check_open()
        if self._decoders is None:
            num_threads = min(_MAX_DECODERS, os.cpu_count() or 1)
            self._decoders = ThreadPoolExecutor(num_threads, thread_name_prefix="video-llava-decoder")
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def _open_channel(self, address: str) -> Any:
        return open_async_channel(address, self._settings)

    def _new_lock(self) -> Any:
        return asyncio.Lock()

    async def _frame_size(self, encoder: str) -> int:
        """Width and height, in pixels, of the frames that the server's model `encoder` takes; asked for once."""
        async with self._frame_size_lock:
            if encoder not in self._frame_sizes:
                reply = await self._call("model_metadata", messages.ModelMetadataRequest(name=encoder))
                self._keep_frame_size(encoder, reply)
            return self._frame_sizes[encoder]

    async def _run(self, steps: Generator[tuple[str, Any], Any, T]) -> T:
        """Ask what `steps` yields and send it the replies; return what it returns."""
        go_on = partial(next, steps)
        while True:
            try:
                method, message = go_on()
            except StopIteration as end:
                return end.value
            try:
                go_on = partial(steps.send, await self._call(method, message))
            except ServerError as exc:
                go_on = partial(steps.throw, exc)

    async def _call(self, method: str, message: Any) -> Any:
        call = Call(self._pool, self._settings, method, message)
        while True:
            try:
                return await call.send(await read_token_async(self._settings.token))
            except grpc.RpcError as exc:
                seconds = call.wait_seconds(exc)
            await asyncio.sleep(seconds)
