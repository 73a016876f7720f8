"""The client for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc

from .answers import Answer
from .base import BaseClient
from .chat import AsyncChat
from .conventions import Conventions
from .deadline import Deadline
from .driver import AsyncDriver
from .errors import VideoLlavaError
from .probe import QUESTION, Probe, probe_options
from .request import AskOptions, Question
from .server import ServerInfo
from .settings import Settings
from .steps import Steps
from .stream import AsyncAnswerStream
from .window import Window

if TYPE_CHECKING:
    from .clip import Clip, VideoSource
    from .images import ImageSource
    from .window import WindowOptions

T = TypeVar("T")


class AsyncVideoLlava(BaseClient):
    """A connection to a Triton server that serves Video-LLaVA, for one event loop.

    async with AsyncVideoLlava("localhost:8001") as client:
        print((await client.ask("Why is this video funny?", video="clip.mp4")).text)

    For any number of requests at a time. Its arguments are those of `BaseClient`; `token` may also be a coroutine
    function, and should be one if it waits for something. Threads of its own decode media, so the event loop never
    waits. Cancelling a task cancels its request.
    """

    _grpc = grpc.aio

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections and cancel every running request; those raise `Cancelled`."""
        channels = self._pool.close()
        self._cancel_all()
        for channel in channels:
            await channel.close()

    async def ask(self, question: str | None = None, **options: Unpack[AskOptions]) -> Answer:
        """Ask, and wait for the whole answer; arguments and errors as `VideoLlava.ask`."""
        async with self.stream(question, **options) as stream:
            return await stream.until_done()

    def stream(self, question: str | None = None, **options: Unpack[AskOptions]) -> AsyncAnswerStream:
        """Ask as `ask` does, and get the answer while it is generated.

        Media are decoded, and the request is sent, when the `async with` block of the stream begins.
        """
        request = self._request(question, options)
        return AsyncAnswerStream(lambda: self._start(partial(self._answer, request), request.settings))

    async def ask_many(
        self, questions: Iterable[str | Question], *, concurrency: int = 16, **options: Unpack[AskOptions]
    ) -> AsyncIterator[Answer | VideoLlavaError]:
        """Ask many questions, and yield an answer or an error for each; arguments as `VideoLlava.ask_many`."""
        slots = asyncio.Semaphore(concurrency)

        async def ask(question: str | Question) -> Answer | VideoLlavaError:
            async with slots:
                try:
                    return await self.ask(**self._options_of(question, options))
                except VideoLlavaError as exc:
                    return exc

        waiting: deque[asyncio.Task[Answer | VideoLlavaError]] = deque()
        try:
            for question in questions:
                waiting.append(asyncio.create_task(ask(question)))
                if len(waiting) == 2 * concurrency:
                    yield await waiting.popleft()
            while waiting:
                yield await waiting.popleft()
        finally:
            for task in waiting:
                task.cancel()

    async def load(self, video: VideoSource, **options: Unpack[WindowOptions]) -> Clip:
        """Decode a video once, in the server's frame size; errors as `VideoLlava.load`."""
        return await self._run(partial(self._load, video, Window.from_options(options)))

    async def chat(
        self,
        *,
        video: VideoSource | Sequence[VideoSource] | None = None,
        images: ImageSource | Sequence[ImageSource] = (),
    ) -> AsyncChat:
        """Begin a conversation as `VideoLlava.chat` does."""
        return AsyncChat(self.stream, await self._run(partial(self._begin_chat, video, images)))

    async def probe(self, *, media: bool = False) -> Probe:
        """Let the server generate one token, as `VideoLlava.probe` does."""
        frame_size = await self._run(partial(self._frame_size, "video_encoder")) if media else None
        options = probe_options(frame_size, (await self.conventions()).num_frames)
        return Probe.from_answer(await self.ask(QUESTION, **options))

    async def info(self) -> ServerInfo:
        """Return the server's version, its models and the sizes they take, as `VideoLlava.info` does."""
        return await self._run(self._ask_info)

    async def conventions(self) -> Conventions:
        """Return how the server's model wants its media and its prompt; asked once. Errors as `info`."""
        return await self._run(self._conventions)

    async def _run(self, steps_until: Callable[[Deadline], Steps[T]]) -> T:
        return await self._start(steps_until, self._settings).run()

    def _start(self, steps_until: Callable[[Deadline], Steps[T]], settings: Settings) -> AsyncDriver[T]:
        deadline = Deadline(settings.timeouts.total)
        driver = AsyncDriver(steps_until(deadline), deadline, settings.token, self._in_thread)
        with self._running_lock:
            self._running.add(driver)
        return driver

    async def _in_thread(self, work: Callable[[], Any], may_wait: bool) -> Any:
        """Return the result of `work`, run in a thread of its own when there are not too many."""
        slots = self._readers if may_wait else self._decoders
        await slots.acquire()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def finish(set_result: Callable[[Any], None], result: Any) -> None:
            slots.release()
            if not done.done():
                set_result(result)

        def run() -> None:
            try:
                outcome = partial(finish, done.set_result, work())
            except BaseException as exc:  # noqa: BLE001 (the task raises it)
                outcome = partial(finish, done.set_exception, exc)
            with suppress(RuntimeError):  # the event loop is closed
                loop.call_soon_threadsafe(outcome)

        # A program that ends does not wait for it.
        threading.Thread(target=run, name="video-llava-decoder", daemon=True).start()
        return await done
