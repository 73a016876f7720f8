"""The client for threads: media and a question become one request, over connections that all requests share."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
import numpy as np

from .answers import Answer
from .base import BaseClient, Call
from .channel import open_channel
from .chat import Chat
from .errors import ServerError
from .history import History
from .media import Clip, ImageSource, VideoSource, load_image
from .metadata import read_token
from .probe import QUESTION, Probe, probe_options, probed
from .request import AskOptions, as_images, as_videos
from .server import ServerInfo, ask_info
from .stream import AnswerStream
from .triton import messages

T = TypeVar("T")


class VideoLlava(BaseClient):
    """A connection to a Triton server that serves Video-LLaVA.

    with VideoLlava("localhost:8001") as client:
        print(client.ask("Why is this video funny?", video="clip.mp4").text)

    For any number of requests at a time, from any number of threads. Its arguments are those of `BaseClient`.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and cancel every request under way; those raise `Cancelled`."""
        for channel in self._pool.close():
            channel.close()

    def ask(self, question: str | None = None, **options: Unpack[AskOptions]) -> Answer:
        """Ask about a video, images, both or neither, and wait for the whole answer.

        Args:
            question: What to ask. Without placeholders, one for each medium is put before it, images first.
            options:
                video: A file, an http(s) address, bytes, a file object, frames in an array uint8 [frames, height,
                    width, 3], or a `Clip`; one or several.
                images: Files, addresses, bytes, file objects, Pillow images, or arrays uint8 [height, width, 3] in
                    RGB; one or several.
                prompt: Instead of `question`, the whole prompt in the model's format (`build_prompt` writes one).
                max_tokens: Where to stop at the latest, in tokens of the answer; 256.
                temperature: 0, the default, takes the likeliest token each time; higher is more varied.
                timeout_seconds: How long the answer may take from sending to its end, retries included; None, the
                    default, is the client's own.
                start_seconds, end_seconds: Look only at this part of each video.
                sampling: Any of vLLM's SamplingParams, such as {"top_p": 0.9, "seed": 7} or
                    {"structured_outputs": {"choice": ["yes", "no"]}}; wins over the two above.

        Raises:
            PromptError: The question or the prompt does not fit the model's format or the media.
            OptionError: An option's value cannot be used.
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
        """Ask as `ask` does, and get the answer while it is written.

        Media are decoded here; the request is sent where the `with` block of the stream begins.
        """
        return self._prepare(question, options)

    def load(self, video: VideoSource, *, start_seconds: float | None = None, end_seconds: float | None = None) -> Clip:
        """Decode a video once, in the server's frame size, to ask about it many times.

        Args:
            video: As for `ask`.
            start_seconds: Look only at what is shown from here on, counted from the first frame.
            end_seconds: Look only at what is shown before this.

        Raises:
            MediaError: The file cannot be used.
            ServerError: The server, which knows the frame size, was not reached.
            StateError: The client is closed.
        """
        size, limits = self._frame_size("video_encoder"), self._media_limits
        return Clip.load(video, size=size, start_seconds=start_seconds, end_seconds=end_seconds, limits=limits)

    def chat(
        self,
        *,
        video: VideoSource | Sequence[VideoSource] | None = None,
        images: ImageSource | Sequence[ImageSource] = (),
    ) -> Chat:
        """Begin a conversation about videos and images, decoded here, or about nothing but text.

        Raises:
            MediaError: A file cannot be used.
            ServerError: The server, which knows the frame size, was not reached.
            StateError: The client is closed.
        """
        clips = [source if isinstance(source, Clip) else self.load(source) for source in as_videos(video)]
        return Chat(self, History(clips, [self._load_image(source) for source in as_images(images)]))

    def probe(self, *, media: bool = False) -> Probe:
        """Let the server generate one token: it works, from the connection to the engine.

        Args:
            media: With a video of noise, so that the video encoder works too; costs as much as a question about a
                video that no cache knows.

        Raises:
            ServerError: It does not work; the text says what.
        """
        frame_size = self._frame_size("video_encoder") if media else 0
        return probed(self.ask(QUESTION, **probe_options(media=media, frame_size=frame_size)))

    def info(self) -> ServerInfo:
        """Ask the server for its version, its models and what they take.

        Raises:
            ServerError: The server was not reached, or does not tell.
        """
        return self._run(ask_info(self.url, self._settings.model))

    def _prepare(self, question: str | None, options: AskOptions) -> AnswerStream:
        started = time.perf_counter()
        request = self._request(question, options)
        frame_sizes = {encoder: self._frame_size(encoder) for encoder in request.encoders}
        exchange = self._exchange(self._outgoing(request, frame_sizes), started)
        return AnswerStream(exchange, self._settings.token)

    def _load_image(self, source: ImageSource) -> np.ndarray:
        return load_image(source, size=self._frame_size("image_encoder"), limits=self._media_limits)

    def _open_channel(self, address: str) -> Any:
        return open_channel(address, self._settings)

    def _new_lock(self) -> Any:
        return threading.Lock()

    def _frame_size(self, encoder: str) -> int:
        """Width and height, in pixels, of the frames that the server's model `encoder` takes; asked for once."""
        with self._frame_size_lock:
            if encoder not in self._frame_sizes:
                reply = self._call("model_metadata", messages.ModelMetadataRequest(name=encoder))
                self._keep_frame_size(encoder, reply)
            return self._frame_sizes[encoder]

    def _run(self, steps: Generator[tuple[str, Any], Any, T]) -> T:
        """Ask what `steps` yields and send it the replies; return what it returns."""
        go_on = partial(next, steps)
        while True:
            try:
                method, message = go_on()
            except StopIteration as end:
                return end.value
            try:
                go_on = partial(steps.send, self._call(method, message))
            except ServerError as exc:
                go_on = partial(steps.throw, exc)

    def _call(self, method: str, message: Any) -> Any:
        call = Call(self._pool, self._settings, method, message)
        while True:
            try:
                return call.send(read_token(self._settings.token))
            except grpc.RpcError as exc:
                seconds = call.wait_seconds(exc)
            time.sleep(seconds)
