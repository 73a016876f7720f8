"""What the blocking and the asyncio client have in common: their arguments, and all steps without the I/O."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack
from weakref import WeakSet

import grpc

from .addresses import parse_addresses
from .call import Call
from .channel import open_channel
from .chat import History
from .conventions import Conventions
from .deadline import Deadline
from .driver import Driver
from .encoded_request import encode_request
from .errors import AccessDenied, Internal, InvalidRequest
from .limits import MediaLimits
from .loading import Loading
from .messages import messages
from .pool import Pool
from .request import AskOptions, Question, Request
from .retry import Retry
from .server import ENSEMBLE_STEPS, ModelLimits, ModelStatus, ServerInfo
from .settings import DEFAULT_TIMEOUT_SECONDS, MAX_MESSAGE_BYTES, ClientOptions, Settings, Timeouts, Token
from .steps import Steps, Work
from .stream_state import StreamState
from .tls import Tls
from .triton import limits_request, read_frame_size, read_text_output
from .window import Window

if TYPE_CHECKING:
    from .clip import Clip, VideoSource
    from .images import ImageSource
    from .workers.pool import DecoderProcesses

T = TypeVar("T")

# Threads of the asyncio client: those that keep a core busy, and those that may wait for an address or a pipe.
_MAX_DECODERS = 8
_MAX_READERS = 64


class BaseClient:
    """A client of a Triton server that serves Video-LLaVA, without its I/O.

    Args:
        url: `host:port` of the server's gRPC service, without a scheme. Several, as a list or separated by commas,
            are used in turn, but a repeated video or image goes to the replica that has it cached;
            `dns:///host:port` takes all addresses behind one name in turn.
        timeout_seconds: For one answer, from the call to its end, unless the request says otherwise; or `Timeouts`.
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
        timeout_seconds: float | Timeouts = DEFAULT_TIMEOUT_SECONDS,
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
        self._settings = settings = Settings(
            addresses=parse_addresses(url),
            model=model,
            timeouts=Timeouts.of(timeout_seconds),
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=keepalive_seconds,
            max_message_bytes=max_message_bytes,
            tls=tls,
            headers=dict(headers or {}),
            token=token,
            retry=retry or Retry(),
            media_limits=media_limits or MediaLimits(),
        )
        self._pool = Pool(settings.addresses, lambda address: open_channel(self._grpc, address, settings))
        self._frame_sizes: dict[str, int] = {}
        self._published: dict[str, Conventions] = {}
        self._processes = _processes(isolated)
        self._owns_processes = isolated is True
        num_decoders = self._processes.num_processes if self._processes else min(_MAX_DECODERS, os.cpu_count() or 1)
        self._decoders = asyncio.Semaphore(num_decoders)
        self._readers = asyncio.Semaphore(_MAX_READERS)
        self._running: WeakSet[Driver[Any]] = WeakSet()
        self._running_lock = threading.Lock()

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
        return self._settings.timeouts.total

    def with_options(self, **options: Unpack[ClientOptions]) -> Self:
        """Return a client with other options over the same connections: closing either closes both.

        Args:
            options: `timeout_seconds`, `model`, `token`, `retry`, `media_limits` and `max_message_bytes` as for the
                client; `headers` are added to its own. `conventions` replace those that the server publishes.

        Raises:
            OptionError: One of these cannot be used.
        """
        other = copy(self)
        other._settings = self._settings.with_options(options)
        return other

    def _request(self, question: str | None, options: AskOptions) -> Request:
        self._pool.check_open()
        return Request.from_options(question, options, self._settings)

    def _options_of(self, question: str | Question, options: AskOptions) -> Question:
        own = Question(question=question) if isinstance(question, str) else question
        return {**options, **own}

    def _cancel_all(self) -> None:
        with self._running_lock:
            running = list(self._running)
        for driver in running:
            driver.cancel()
        if self._processes and self._owns_processes:
            self._processes.close()

    def _ask(self, method: str, message: Any, deadline: Deadline) -> Steps[Any]:
        return Call(self._pool, self._settings, method, message, deadline).reply()

    def _answer(self, request: Request, deadline: Deadline) -> Steps[None]:
        """Decode the media of `request`, send it, and yield its deltas: see `StreamState.steps`."""
        started, settings = time.perf_counter(), request.settings
        conventions = yield from self._conventions(deadline)
        frame_sizes: dict[str, int] = {}
        for encoder in request.encoders:
            frame_sizes[encoder] = yield from self._frame_size(encoder, deadline)
        encoded = yield from self._decode(
            (*request.videos, *request.images),
            deadline,
            conventions,
            encode_request,
            request,
            model=settings.model,
            frame_sizes=frame_sizes,
            max_message_bytes=settings.max_message_bytes,
        )
        call = Call(
            self._pool,
            settings,
            "stream_infer",
            encoded.message,
            deadline,
            request_id=encoded.request_id,
            digest=encoded.digest,
        )
        yield from StreamState(encoded, call, settings.timeouts, started=started).steps()

    def _decode(
        self,
        sources: Sequence[object],
        deadline: Deadline,
        conventions: Conventions,
        work: Callable[..., T],
        *arguments: Any,
        **options: Any,
    ) -> Steps[T]:
        """Let `work` decode `sources` until `deadline`, elsewhere if there are any."""
        loading = Loading(
            limits=self._settings.media_limits,
            deadline=deadline,
            decoders=self._processes,
            conventions=conventions,
        )
        decode = partial(work, *arguments, **options, loading=loading)
        if not sources:
            return decode()
        return (yield Work(decode, may_wait=any(map(_may_wait, sources))))

    def _frame_size(self, encoder: str, deadline: Deadline) -> Steps[int]:
        """Return width and height, in pixels, that the server's model `encoder` takes. The reply is kept."""
        if encoder not in self._frame_sizes:
            message = messages.ModelMetadataRequest(name=encoder)
            metadata = yield from self._ask("model_metadata", message, deadline)
            try:
                self._frame_sizes[encoder] = read_frame_size(metadata)
            except ValueError as exc:
                raise Internal(f"{self.url}: {exc}") from exc
        return self._frame_sizes[encoder]

    def _conventions(self, deadline: Deadline) -> Steps[Conventions]:
        """Return the client's own conventions, or those that the server publishes. The reply is kept."""
        if self._settings.conventions is not None:
            return self._settings.conventions
        if "intake" not in self._published:
            limits = yield from self._ask_limits(deadline)
            self._published["intake"] = limits.conventions if limits else Conventions()
        return self._published["intake"]

    def _ask_limits(self, deadline: Deadline) -> Steps[ModelLimits | None]:
        """Return the limits in the configuration of `intake`; None: an earlier release, with the default conventions.

        An inference counts for a key's limit and holds up a server that ends. It is asked where a proxy, written for an
        earlier release, closes the configuration.
        """
        try:
            reply = yield from self._ask("model_config", messages.ModelConfigRequest(name="intake"), deadline)
        except InvalidRequest:
            return None
        except AccessDenied:
            return (yield from self._infer_limits(deadline))
        text = reply.config.parameters["limits"].string_value
        return ModelLimits.from_json(text) if text else None

    def _infer_limits(self, deadline: Deadline) -> Steps[ModelLimits | None]:
        """Return the limits as `intake` gives them as an output; None: an earlier release, without it."""
        with suppress(InvalidRequest, Internal, ValueError):
            reply = yield from self._ask("infer", limits_request(), deadline)
            return ModelLimits.from_json(read_text_output(reply, "limits"))
        return None

    def _load(self, video: VideoSource, window: Window, deadline: Deadline) -> Steps[Clip]:
        from .clip import Clip

        size = yield from self._frame_size("video_encoder", deadline)
        conventions = yield from self._conventions(deadline)
        return (
            yield from self._decode([video], deadline, conventions, Clip.load_window, video, size=size, window=window)
        )

    def _begin_chat(
        self,
        video: VideoSource | Sequence[VideoSource] | None,
        images: ImageSource | Sequence[ImageSource],
        deadline: Deadline,
    ) -> Steps[History]:
        """Decode the media of a conversation."""
        from .clip import Clip, as_videos
        from .images import as_images, in_groups, load_images

        conventions = yield from self._conventions(deadline)
        clips: list[Clip] = []
        decoded: list[Any] = []
        for source in as_videos(video):
            clip = source if isinstance(source, Clip) else (yield from self._load(source, Window(), deadline))
            clips.append(clip)
        for group in in_groups(as_images(images)):
            size = yield from self._frame_size("image_encoder", deadline)
            decode = self._decode(group, deadline, conventions, load_images, group, size=size)
            decoded.extend((yield from decode))
        return History(clips, decoded, system=conventions.system)

    def _ask_info(self, deadline: Deadline) -> Steps[ServerInfo]:
        server = yield from self._ask("server_metadata", messages.ServerMetadataRequest(), deadline)
        models = yield from self._ask_models(deadline)
        limits = (yield from self._ask_limits(deadline)) or (yield from self._infer_limits(deadline))
        return ServerInfo(url=self.url, version=server.version, models=models, limits=limits)

    def _ask_models(self, deadline: Deadline) -> Steps[tuple[ModelStatus, ...]]:
        try:
            index = yield from self._ask("repository_index", messages.RepositoryIndexRequest(), deadline)
            return tuple(ModelStatus(m.name, m.version, m.state, m.reason) for m in index.models)
        except AccessDenied:
            statuses = []
            for name in (self.model, *ENSEMBLE_STEPS):
                reply = yield from self._ask("model_ready", messages.ModelReadyRequest(name=name), deadline)
                statuses.append(ModelStatus(name, "", "READY" if reply.ready else "UNAVAILABLE", ""))
            return tuple(statuses)


def _processes(isolated: bool | DecoderProcesses) -> DecoderProcesses | None:
    if not isolated:
        return None
    from .workers.pool import DecoderProcesses

    return DecoderProcesses() if isolated is True else isolated


def _may_wait(source: object) -> bool:
    from .sources import may_be_silent  # text does without

    return may_be_silent(source)
