"""What the blocking and the asyncio client have in common: their arguments, and all steps without the I/O."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from .addresses import parse_addresses
from .call import Call
from .channel import open_channel
from .chat import History
from .encoded_request import encode_request
from .errors import AccessDenied, Internal, InvalidRequest
from .limits import MediaLimits
from .messages import messages
from .pool import Pool
from .request import AskOptions, Request
from .retry import Retry
from .server import ENSEMBLE_STEPS, ModelLimits, ModelStatus, ServerInfo
from .settings import DEFAULT_TIMEOUT_SECONDS, MAX_MESSAGE_BYTES, Settings, Token
from .stream_state import StreamState
from .tls import Tls
from .triton import limits_request, read_frame_size

if TYPE_CHECKING:
    import numpy as np

    from .clip import Clip, VideoSource
    from .images import ImageSource
    from .workers.pool import DecoderProcesses

T = TypeVar("T")

# A generator that yields calls to the server and CPU work, is sent their results, and returns a value: a client of
# either kind runs it in its own way.
Steps = Generator[Call | Callable[[], Any], Any, T]


class BaseClient:
    """A client of a Triton server that serves Video-LLaVA, without its I/O.

    Args:
        url: `host:port` of the server's gRPC service, without a scheme. Several, as a list or separated by commas,
            are used in turn; `dns:///host:port` does so with all addresses behind one name.
        timeout_seconds: For one answer, from sending to its end, unless the request says otherwise.
        model: The name of the model on the server.
        tls: `Tls()` or more encrypts the connection; None does not.
        headers: gRPC metadata for every request.
        token: Sent as `authorization: Bearer …`; a callable is called for each attempt of each request.
        retry: When to send a request again.
        connect_timeout_seconds: For one attempt to connect.
        keepalive_seconds: Time without traffic before an open connection is tested; None does not test. Triton closes
            connections that are tested more often than every 300 s, unless configured otherwise.
        media_limits: What a video or an image may be and cost.
        isolated: True decodes files in processes of the client's own, with limits (`DecoderProcesses`): for files from
            strangers. Or such processes, which this client does not close.
        max_message_bytes: The largest request. Triton takes 2 GiB, a proxy before it perhaps less.

    Raises:
        OptionError: One of these cannot be used.
    """

    _grpc: Any = grpc

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        model: str = "video_llava",
        tls: Tls | None = None,
        headers: Mapping[str, str] | None = None,
        token: Token | None = None,
        retry: Retry | None = None,
        connect_timeout_seconds: float = 10.0,
        keepalive_seconds: float | None = 330.0,
        media_limits: MediaLimits | None = None,
        isolated: bool | DecoderProcesses = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._media_limits = media_limits or MediaLimits()
        self._processes, self._owns_processes = _processes(isolated)
        self._settings = settings = Settings(
            addresses=parse_addresses(url),
            model=model,
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=keepalive_seconds,
            max_message_bytes=max_message_bytes,
            tls=tls,
            headers=dict(headers or {}),
            token=token,
            retry=retry or Retry(),
        )
        self._pool = Pool(settings.addresses, lambda address: open_channel(self._grpc, address, settings))
        self._frame_sizes: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, model={self.model!r})"

    @property
    def url(self) -> str:
        """The server's addresses, separated by commas."""
        return self._settings.url

    @property
    def model(self) -> str:
        """The name of the model on the server."""
        return self._settings.model

    @property
    def timeout_seconds(self) -> float:
        """For one answer, unless the request says otherwise."""
        return self._settings.timeout_seconds

    def _end_processes(self) -> None:
        if self._processes is not None and self._owns_processes:
            self._processes.close()

    def _request(self, question: str | None, options: AskOptions) -> Request:
        self._pool.check_open()
        return Request.from_options(question, options, default_timeout_seconds=self.timeout_seconds)

    def _call(self, method: str, message: Any) -> Call:
        return Call(self._pool, self._settings, method, message)

    def _prepare(self, request: Request, started: float) -> Steps[StreamState]:
        """Decode the media of `request`; return the stream's state."""
        frame_sizes: dict[str, int] = {}
        for encoder in request.encoders:
            frame_sizes[encoder] = yield from self._frame_size(encoder)
        encoded = yield partial(
            encode_request,
            request,
            model=self.model,
            frame_sizes=frame_sizes,
            max_message_bytes=self._settings.max_message_bytes,
            limits=self._media_limits,
            decoders=self._processes,
        )
        return StreamState(encoded, self._pool, self._settings, started=started)

    def _frame_size(self, encoder: str) -> Steps[int]:
        """Return width and height, in pixels, that the server's model `encoder` takes. The reply is kept."""
        if encoder not in self._frame_sizes:
            metadata = yield self._call("model_metadata", messages.ModelMetadataRequest(name=encoder))
            try:
                self._frame_sizes[encoder] = read_frame_size(metadata)
            except ValueError as exc:
                raise Internal(f"{self.url}: {exc}") from exc
        return self._frame_sizes[encoder]

    def _load(self, video: VideoSource, start_seconds: float | None, end_seconds: float | None) -> Steps[Clip]:
        from .clip import Clip

        size = yield from self._frame_size("video_encoder")
        return (
            yield partial(
                Clip.load,
                video,
                size=size,
                start_seconds=start_seconds,
                end_seconds=end_seconds,
                limits=self._media_limits,
                decoders=self._processes,
            )
        )

    def _begin_chat(
        self,
        video: VideoSource | Sequence[VideoSource] | None,
        images: ImageSource | Sequence[ImageSource],
    ) -> Steps[History]:
        """Decode the media of a conversation."""
        from .clip import Clip, as_videos
        from .images import as_images, load_image

        clips: list[Clip] = []
        decoded: list[np.ndarray] = []
        for source in as_videos(video):
            clip = source if isinstance(source, Clip) else (yield from self._load(source, None, None))
            clips.append(clip)
        for source in as_images(images):
            size = yield from self._frame_size("image_encoder")
            options = {"size": size, "limits": self._media_limits, "decoders": self._processes}
            decoded.append((yield partial(load_image, source, **options)))
        return History(clips, decoded)

    def _ask_info(self) -> Steps[ServerInfo]:
        server = yield self._call("server_metadata", messages.ServerMetadataRequest())
        models = yield from self._ask_models()
        limits = None
        # The `intake` of an earlier release has no such output.
        with suppress(InvalidRequest, Internal):
            limits = ModelLimits.from_reply((yield self._call("infer", limits_request())))
        return ServerInfo(url=self.url, version=server.version, models=models, limits=limits)

    def _ask_models(self) -> Steps[tuple[ModelStatus, ...]]:
        try:
            index = yield self._call("repository_index", messages.RepositoryIndexRequest())
            return tuple(ModelStatus(m.name, m.version, m.state, m.reason) for m in index.models)
        except AccessDenied:
            statuses = []
            for name in (self.model, *ENSEMBLE_STEPS):
                reply = yield self._call("model_ready", messages.ModelReadyRequest(name=name))
                statuses.append(ModelStatus(name, "", "READY" if reply.ready else "UNAVAILABLE", ""))
            return tuple(statuses)


def _processes(isolated: bool | DecoderProcesses) -> tuple[DecoderProcesses | None, bool]:
    """Return the processes that decode, and whether they are the client's own."""
    if not isolated:
        return None, False
    from .workers.pool import DecoderProcesses

    return (DecoderProcesses(), True) if isolated is True else (isolated, False)
