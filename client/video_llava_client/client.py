"""The client: media and a question become one request, over one connection that all requests share."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Self

import grpc

from .answers import Answer
from .errors import Internal, OptionError, StateError
from .media import Clip, ImageSource, VideoSource
from .request import Request, as_images, as_videos, check_timeout, encode_request
from .stream import AnswerStream, Pending
from .triton import Connection, from_rpc_error, write_request

DEFAULT_TIMEOUT_SECONDS = 120.0
DEFAULT_MAX_TOKENS = 256


class VideoLlava:
    """A connection to a Triton server that serves Video-LLaVA.

    with VideoLlava("localhost:8001") as client:
        print(client.ask("Why is this video funny?", video="clip.mp4").text)

    One connection for any number of requests at a time, from any number of threads.

    Args:
        url: `host:port` of the server's gRPC service, without a scheme.
        timeout_seconds: How long an answer may take, from sending to its end, unless the request says otherwise.
        model: The name of the model on the server.

    Raises:
        OptionError: `url` or `timeout_seconds` cannot be used.
    """

    def __init__(
        self, url: str, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS, model: str = "video_llava"
    ) -> None:
        if not url or url.startswith(("http://", "https://", "grpc://")):
            raise OptionError(f"url must be host:port without a scheme, such as localhost:8001, got {url!r}")
        check_timeout(timeout_seconds)
        self.url = url
        self.timeout_seconds = timeout_seconds
        self.model = model
        self._connection = Connection(url)
        self._closed = False
        self._frame_sizes: dict[str, int] = {}
        self._frame_sizes_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"VideoLlava({self.url!r}, model={self.model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and cancel every request under way; those raise `Cancelled`."""
        self._closed = True
        self._connection.close()

    def ask(
        self,
        question: str | None = None,
        *,
        video: VideoSource | Sequence[VideoSource] | None = None,
        images: ImageSource | Sequence[ImageSource] = (),
        prompt: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = 0.0,
        timeout_seconds: float | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Ask about a video, images, both or neither, and wait for the whole answer.

        Args:
            question: What to ask. Without placeholders, one for each medium is put before it, images first.
            video: A file or a `Clip`, or several.
            images: Files, Pillow images or arrays uint8 [height, width, 3] in RGB; one or several.
            prompt: Instead of `question`, the whole prompt in the model's format (`build_prompt` writes one).
            max_tokens: Where to stop at the latest, in tokens of the answer.
            temperature: 0 takes the likeliest token each time; higher is more varied.
            timeout_seconds: How long the answer may take from sending to its end; None is the client's own.
            sampling: Any of vLLM's SamplingParams, such as {"top_p": 0.9, "seed": 7}; wins over the two above.

        Raises:
            PromptError: The question or the prompt does not fit the model's format or the media.
            OptionError: An option's value cannot be used.
            MediaError: A file cannot be used.
            ServerError: The server refused, failed or was not reached.
            StateError: The client is closed.
        """
        request = Request(
            question=question,
            prompt=prompt,
            videos=as_videos(video),
            images=as_images(images),
            max_tokens=max_tokens,
            temperature=temperature,
            sampling=sampling or {},
            timeout_seconds=self.timeout_seconds if timeout_seconds is None else timeout_seconds,
            stream=False,
        )
        with self._prepare(request) as stream:
            for _ in stream:
                pass
        return stream.answer

    def stream(
        self,
        question: str | None = None,
        *,
        video: VideoSource | Sequence[VideoSource] | None = None,
        images: ImageSource | Sequence[ImageSource] = (),
        prompt: str | None = None,
        max_tokens: int = DEFAULT_MAX_TOKENS,
        temperature: float = 0.0,
        timeout_seconds: float | None = None,
        sampling: Mapping[str, Any] | None = None,
    ) -> AnswerStream:
        """Ask as `ask` does, and get the answer while it is written.

        Media are decoded here; the request is sent where the `with` block of the stream begins.
        """
        request = Request(
            question=question,
            prompt=prompt,
            videos=as_videos(video),
            images=as_images(images),
            max_tokens=max_tokens,
            temperature=temperature,
            sampling=sampling or {},
            timeout_seconds=self.timeout_seconds if timeout_seconds is None else timeout_seconds,
            stream=True,
        )
        return self._prepare(request)

    def load(self, video: str | PathLike[str]) -> Clip:
        """Decode a video once, in the server's frame size, to ask about it many times.

        Raises:
            MediaError: The file cannot be used.
            ServerError: The server, which knows the frame size, was not reached.
            StateError: The client is closed.
        """
        self._check_open()
        return Clip.from_file(video, size=self._frame_size("video_encoder"))

    def _prepare(self, request: Request) -> AnswerStream:
        self._check_open()
        started = time.perf_counter()
        request_id = str(uuid.uuid4())
        encoded = encode_request(request, frame_size=self._frame_size)
        message = write_request(self.model, request_id, encoded.inputs)
        pending = Pending(
            request_id=request_id,
            url=self.url,
            timeout_seconds=request.timeout_seconds,
            streamed=request.stream,
            frames=encoded.frames,
            decode_seconds=encoded.stopwatch.seconds["decode"],
            preprocess_seconds=encoded.stopwatch.seconds["preprocess"],
            started=started,
        )
        return AnswerStream(pending, lambda: self._send(message, request.timeout_seconds))

    def _send(self, message: Any, timeout_seconds: float) -> Any:
        try:
            return self._connection.stream_infer(message, timeout_seconds=timeout_seconds)
        except ValueError as exc:
            self._check_open(exc)
            raise

    def _frame_size(self, encoder: str) -> int:
        """Width and height, in pixels, of the frames that the server's model `encoder` takes; asked for once."""
        with self._frame_sizes_lock:
            if encoder not in self._frame_sizes:
                self._frame_sizes[encoder] = self._ask_frame_size(encoder)
            return self._frame_sizes[encoder]

    def _ask_frame_size(self, encoder: str) -> int:
        try:
            return self._connection.read_frame_size(encoder, timeout_seconds=self.timeout_seconds)
        except grpc.RpcError as exc:
            raise from_rpc_error(exc, url=self.url, timeout_seconds=self.timeout_seconds) from exc
        except ValueError as exc:
            self._check_open(exc)
            raise Internal(f"{self.url}: {exc}") from exc

    def _check_open(self, cause: Exception | None = None) -> None:
        # gRPC has but a ValueError for a closed channel.
        if self._closed:
            raise StateError("this client is closed: make another one") from cause
