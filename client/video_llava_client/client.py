"""The client for threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from .answers import Answer
from .base import BaseClient
from .chat import Chat
from .conventions import Conventions
from .deadline import Deadline
from .driver import BlockingDriver
from .errors import VideoLlavaError
from .probe import QUESTION, Probe, probe_options
from .request import AskOptions, Question
from .server import ServerInfo
from .settings import Settings
from .steps import Steps
from .stream import AnswerStream
from .window import Window

if TYPE_CHECKING:
    from .clip import Clip, VideoSource
    from .images import ImageSource
    from .window import WindowOptions

T = TypeVar("T")


class VideoLlava(BaseClient):
    """A connection to a Triton server that serves Video-LLaVA.

    with VideoLlava("localhost:8001") as client:
        print(client.ask("Why is this video funny?", video="clip.mp4").text)

    Any number of threads may use it, for any number of requests at a time. Its arguments are those of `BaseClient`.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and cancel every running request; those raise `Cancelled`."""
        channels = self._pool.close()
        self._cancel_all()
        for channel in channels:
            channel.close()

    def ask(self, question: str | None = None, **options: Unpack[AskOptions]) -> Answer:
        """Ask about videos, images, both or neither, and wait for the whole answer.

        Args:
            question: What to ask. Without placeholders, one for each medium is added before it, images first.
            options:
                video: A file, an http(s) address, bytes, a file object, frames in an array uint8 [frames, height,
                    width, 3], or a `Clip`; one or several.
                images: Files, addresses, bytes, file objects, Pillow images, or arrays uint8 [height, width, 3] in
                    RGB; one or several.
                prompt: Instead of `question`, the whole prompt in the model's format (see `build_prompt`).
                max_tokens: The most tokens that the answer may have; 256.
                temperature: 0, the default, takes the most likely token each time; higher varies more.
                timeout_seconds: From the call to the end of the answer, with decoding, delays and retries; None: the
                    client's own.
                start_seconds, end_seconds, frame_indices, frame_seconds, video_stream: Which frames of each video are
                    used, and of which stream, as for `Clip.load`.
                response_format: A Pydantic model: the answer is JSON of its schema, and `Answer.parsed` one of it.
                headers, token: gRPC metadata and a token for this request, beside or instead of the client's.
                request_id: Printable ASCII, for the server's log; by default a new UUID.
                lora_name: The server's adapter that answers, one of `info().limits.lora_names`; None: the model itself.
                priority: 0, or a number of steps behind other callers: the server takes lower ones first.
                server_load: Return how busy the server is, which an older server refuses.
                logprobs: Return the log probability of each token, and of this many of the most likely ones there.
                sampling: Any of vLLM's SamplingParams, such as {"top_p": 0.9, "seed": 7} or
                    {"structured_outputs": {"choice": ["yes", "no"]}}; overrides `max_tokens` and `temperature`.

        Raises:
            PromptError: The question or the prompt does not fit the model's format or the media.
            OptionError: The value of an option cannot be used.
            MediaError: A file cannot be used.
            DeadlineExceeded: The time is over, in whatever phase.
            RequestTooLarge: The request has more bytes than may be sent.
            ServerError: The server refused, failed or was not reached.
            StateError: The client is closed.
        """
        with self.stream(question, **options) as stream:
            return stream.until_done()

    def stream(self, question: str | None = None, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask as `ask` does, and get the answer while it is generated.

        Media are decoded, and the request is sent, when the `with` block of the stream begins.
        """
        request = self._request(question, options)
        return AnswerStream(lambda: self._start(partial(self._answer, request), request.settings))

    def ask_many(
        self, questions: Iterable[str | Question], *, concurrency: int = 16, **options: Unpack[AskOptions]
    ) -> Iterator[Answer | VideoLlavaError]:
        """Ask many questions, at most `concurrency` at a time; yield an answer or an error for each, in their order.

        Questions are read as they are needed. Leaving the loop cancels what is running.

        Args:
            questions: Texts, or the arguments of `ask`: {"question": ..., "video": ...}.
            concurrency: The most requests at a time, each in a thread of its own.
            options: For all questions that do not have their own.
        """
        running: set[AnswerStream] = set()

        def ask(question: str | Question) -> Answer | VideoLlavaError:
            try:
                stream = self.stream(**self._options_of(question, options))
            except VideoLlavaError as exc:
                return exc
            running.add(stream)
            try:
                with stream:
                    return stream.until_done()
            except VideoLlavaError as exc:
                return exc
            finally:
                running.discard(stream)

        threads = ThreadPoolExecutor(concurrency, thread_name_prefix="video-llava-ask")
        waiting: deque[Future[Answer | VideoLlavaError]] = deque()
        try:
            for question in questions:
                waiting.append(threads.submit(ask, question))
                # Twice as many as run at a time, so that a slow one does not hold up the others.
                if len(waiting) == 2 * concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for stream in list(running):
                stream.close()

    def load(self, video: VideoSource, **options: Unpack[WindowOptions]) -> Clip:
        """Decode a video once, in the server's frame size, to ask about it many times.

        Args:
            video: As for `ask`.
            options: Which frames, and of which stream, as for `Clip.load`.

        Raises:
            MediaError: The file cannot be used.
            ServerError: The server, which knows the frame size, was not reached.
            StateError: The client is closed.
        """
        return self._run(partial(self._load, video, Window.from_options(options)))

    def chat(
        self,
        *,
        video: VideoSource | Sequence[VideoSource] | None = None,
        images: ImageSource | Sequence[ImageSource] = (),
    ) -> Chat:
        """Begin a conversation about videos and images, decoded here, or text alone; errors as `load`."""
        return Chat(self.stream, self._run(partial(self._begin_chat, video, images)))

    def probe(self, *, media: bool = False) -> Probe:
        """Let the server generate one token: the connection, the models and the engine work.

        Args:
            media: Send a video of noise, to include the video encoder; costs as much as a question about a video that
                no cache has.

        Raises:
            ServerError: Something does not work; the text says what.
        """
        frame_size = self._run(partial(self._frame_size, "video_encoder")) if media else None
        return Probe.from_answer(self.ask(QUESTION, **probe_options(frame_size, self.conventions().num_frames)))

    def info(self) -> ServerInfo:
        """Return the server's version, its models and the sizes they take.

        Raises:
            ServerError: The server was not reached, or does not say.
        """
        return self._run(self._ask_info)

    def conventions(self) -> Conventions:
        """Return how the server's model wants its media and its prompt; asked once. Errors as `info`."""
        return self._run(self._conventions)

    def _run(self, steps_until: Callable[[Deadline], Steps[T]]) -> T:
        return self._start(steps_until, self._settings).run()

    def _start(self, steps_until: Callable[[Deadline], Steps[T]], settings: Settings) -> BlockingDriver[T]:
        deadline = Deadline(settings.timeouts.total)
        driver = BlockingDriver(steps_until(deadline), deadline, settings.token)
        with self._running_lock:
            self._running.add(driver)
        return driver
