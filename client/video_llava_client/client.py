"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc

from .answers import Answer
from .base import BaseClient, Steps
from .call import Call
from .chat import Chat
from .metadata import read_token
from .probe import QUESTION, Probe, probe_options
from .request import AskOptions
from .server import ServerInfo
from .stream import AnswerStream

if TYPE_CHECKING:
    from .clip import Clip, VideoSource
    from .images import ImageSource

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
        for channel in self._pool.close():
            channel.close()
        self._end_processes()

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
                timeout_seconds: From sending to the end of the answer, retries included; None: the client's own.
                start_seconds, end_seconds: Use only this part of each video.
                sampling: Any of vLLM's SamplingParams, such as {"top_p": 0.9, "seed": 7} or
                    {"structured_outputs": {"choice": ["yes", "no"]}}; overrides `max_tokens` and `temperature`.

        Raises:
            PromptError: The question or the prompt does not fit the model's format or the media.
            OptionError: The value of an option cannot be used.
            MediaError: A file cannot be used.
            RequestTooLarge: The request has more bytes than may be sent.
            ServerError: The server refused, failed or was not reached.
            StateError: The client is closed.
        """
        with self.stream(question, **options) as stream:
            for _ in stream:
                pass
        return stream.answer

    def stream(self, question: str | None = None, **options: Unpack[AskOptions]) -> AnswerStream:
        """Ask as `ask` does, and get the answer while it is generated.

        Media are decoded here; the request is sent when the `with` block of the stream begins.
        """
        started = time.perf_counter()
        state = self._run(self._prepare(self._request(question, options), started))
        return AnswerStream(state, self._settings.token)

    def load(self, video: VideoSource, *, start_seconds: float | None = None, end_seconds: float | None = None) -> Clip:
        """Decode a video once, in the server's frame size, to ask about it many times.

        Args:
            video: As for `ask`.
            start_seconds: Use only frames from here on, counted from the first frame.
            end_seconds: Use only frames before this.

        Raises:
            MediaError: The file cannot be used.
            ServerError: The server, which knows the frame size, was not reached.
            StateError: The client is closed.
        """
        return self._run(self._load(video, start_seconds, end_seconds))

    def chat(
        self,
        *,
        video: VideoSource | Sequence[VideoSource] | None = None,
        images: ImageSource | Sequence[ImageSource] = (),
    ) -> Chat:
        """Begin a conversation about videos and images, decoded here, or text alone; errors as `load`."""
        return Chat(self.stream, self._run(self._begin_chat(video, images)))

    def probe(self, *, media: bool = False) -> Probe:
        """Let the server generate one token: the connection, the models and the engine work.

        Args:
            media: Send a video of noise, to include the video encoder; costs as much as a question about a video that
                no cache has.

        Raises:
            ServerError: Something does not work; the text says what.
        """
        frame_size = self._run(self._frame_size("video_encoder")) if media else None
        return Probe.from_answer(self.ask(QUESTION, **probe_options(frame_size)))

    def info(self) -> ServerInfo:
        """Return the server's version, its models and the sizes they take.

        Raises:
            ServerError: The server was not reached, or does not say.
        """
        return self._run(self._ask_info())

    def _run(self, steps: Steps[T]) -> T:
        resume = partial(next, steps)
        while True:
            try:
                step = resume()
            except StopIteration as end:
                return end.value
            try:
                result = self._finish(step) if isinstance(step, Call) else step()
            except Exception as exc:  # noqa: BLE001 (the generator gets it)
                resume = partial(steps.throw, exc)
            else:
                resume = partial(steps.send, result)

    def _finish(self, call: Call) -> Any:
        while True:
            try:
                return call.send(read_token(self._settings.token))
            except grpc.RpcError as exc:
                seconds = call.retry_delay(call.error_from(exc))
            time.sleep(seconds)
