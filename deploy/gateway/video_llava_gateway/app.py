"""The application: which path does what."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router
from video_llava_client import AsyncVideoLlava, VideoLlavaError

from .body import Buffers
from .chat import ChatCompletions
from .errors import ApiError, from_client_error
from .file_store import FileStore
from .files import Files
from .frames import Frames
from .keys import KeyFile
from .media import MediaStore
from .metrics import Metrics
from .middleware import Middleware
from .page import page_routes
from .settings import GatewaySettings

# A picture of one pixel.
_PIXEL = base64.b64decode("R0lGODlhAQABAAAAACwAAAAAAQABAAACAkQBADs=")
_PATHS = "/v1/chat/completions (POST), /v1/frames (POST), /v1/models, /health, /metrics, /version"
_HEALTH_SECONDS = 5.0
# Whoever asks more often gets the same answer.
_HEALTH_KEPT_SECONDS = 1.0


class Gateway:
    """The gateway as an ASGI application.

    Args:
        client: Asks Triton; closed with the application.
        settings: How requests are treated.
        keys: None: callers need no key.
        files: Where uploads are kept; closed with the application. None: there are no files.
        log_json: The access log has JSON.

    Attributes:
        app: The application.
        metrics: Its counters.
    """

    def __init__(
        self,
        client: AsyncVideoLlava,
        settings: GatewaySettings | None = None,
        *,
        keys: KeyFile | None = None,
        files: FileStore | None = None,
        log_json: bool = False,
    ) -> None:
        self._client = client
        self._settings = settings or GatewaySettings()
        self._started = int(time.time())
        self._health_lock = asyncio.Lock()
        self._health: tuple[float, ApiError | None] = (0.0, None)
        self.metrics = Metrics()
        buffers = Buffers(self._settings.max_buffered_bytes)
        media = MediaStore(
            client,
            max_bytes=self._settings.cache_bytes,
            allows_addresses=self._settings.allows_addresses,
            metrics=self.metrics,
            files=files,
        )
        self._chat = ChatCompletions(client, self._settings, self.metrics, media=media, buffers=buffers)
        self._store = files
        self._files = None if files is None else Files(files, self._settings)
        routes = [
            *(page_routes() if self._settings.has_page else ()),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
            Route("/v1/frames", Frames(self._settings, media=media, buffers=buffers), methods=["POST"]),
            Route("/v1/models", self._list_models),
            Route("/v1/models/{name:path}", self._show_model),
            Route("/health", self._check_health),
            Route("/metrics", self._show_metrics),
            Route("/version", self._show_version),
            *(self._files.routes if self._files else ()),
        ]
        self._router = Router(routes, lifespan=self._lifespan)
        self.app = Middleware(
            self._route, keys=keys, host_names=self._settings.host_names, metrics=self.metrics, log_json=log_json
        )

    async def _route(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            # With "app", it raises what it has no route for.
            await self._router({**scope, "app": self}, receive, send)
        except HTTPException as exc:
            raise ApiError(exc.status_code, f"{exc.detail}: there are {self._paths}") from exc

    @property
    def _paths(self) -> str:
        return f"{_PATHS}, /v1/files{'' if self._files else ' (where the gateway has --files-dir)'}"

    @asynccontextmanager
    async def _lifespan(self, _app: Any) -> AsyncIterator[None]:
        async with self._client:
            tasks = [asyncio.create_task(self._warm_up())]
            if self._files is not None:
                tasks.append(asyncio.create_task(self._files.sweep()))
            yield
            for task in tasks:
                task.cancel()
        if self._store is not None:
            self._store.close()

    async def _warm_up(self) -> None:
        """Decode a pixel in each process, so that the first request does not wait until they have started."""
        with suppress(VideoLlavaError):  # Triton, which knows the size of frames, is away
            pixels = [self._client.chat(images=[_PIXEL]) for _ in range(self._settings.num_decoders)]
            await asyncio.gather(*pixels)

    async def _list_models(self, _request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [*(await self._cards()).values()]})

    async def _show_model(self, request: Request) -> Response:
        name, cards = request.path_params["name"], await self._cards()
        if name not in cards:
            raise ApiError(404, f"there is no model {name[:100]!r}", param="model", code="model_not_found")
        return JSONResponse(cards[name])

    async def _cards(self) -> dict[str, dict[str, Any]]:
        """Return the model by its names, and its adapters."""
        try:
            limits = (await self._client.info()).limits
        except VideoLlavaError as exc:
            raise from_client_error(exc) from exc
        card = {
            "object": "model",
            "created": self._started,
            "owned_by": "video-llava",
            "max_model_len": limits.max_model_len if limits else None,
        }
        names, lora_names = self._settings.model_names, limits.lora_names if limits else ()
        of_model = {name: {"id": name, **card, "root": self._client.model, "parent": None} for name in names}
        of_loras = {name: {"id": name, **card, "root": name, "parent": names[0]} for name in lora_names}
        return of_model | {name: each for name, each in of_loras.items() if name not in names}

    async def _check_health(self, _request: Request) -> Response:
        async with self._health_lock:
            if time.monotonic() - self._health[0] >= _HEALTH_KEPT_SECONDS:
                self._health = time.monotonic(), await self._sickness()
        if self.app.is_draining:
            return ApiError(503, "the gateway is about to stop").response()
        error = self._health[1]
        return error.response() if error else JSONResponse({"status": "ok"})

    async def _sickness(self) -> ApiError | None:
        """Return why no request can be answered; None if one can."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                info = await self._client.info()
        except VideoLlavaError as exc:
            return ApiError(503, str(exc))
        except TimeoutError:
            return ApiError(503, f"{self._client.url} did not answer within {_HEALTH_SECONDS:g} s")
        missing = ", ".join(model.name for model in info.models if model.state != "READY")
        return None if info.is_ready else ApiError(503, f"models are not ready: {missing}")

    async def _show_metrics(self, _request: Request) -> Response:
        if self._store is not None:
            self.metrics.files.set(self._store.num_files)
            self.metrics.files_bytes.set(self._store.num_bytes)
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _show_version(self, _request: Request) -> Response:
        return JSONResponse({"version": version("video-llava-triton")})
