"""What every request passes: the key, the drain, errors as answers, metrics and the access log."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from fnmatch import fnmatchcase
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from .errors import ApiError, CallerLeft, draining
from .keys import KeyFile
from .metrics import Metrics
from .record import Record

log = logging.getLogger("video_llava_gateway")

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Middleware:
    """An ASGI application before another one, which finds a `Record` in its scope.

    Args:
        app: What is behind.
        keys: None: callers need no key.
        host_names: As `GatewaySettings`.
        metrics: Counts.
        log_json: The access log has JSON.

    Attributes:
        is_draining: New requests are refused.
        num_running: Requests to /v1 that have not ended.
    """

    def __init__(
        self,
        app: Application,
        *,
        keys: KeyFile | None,
        host_names: Sequence[str] | None,
        metrics: Metrics,
        log_json: bool,
    ) -> None:
        self.is_draining = False
        self.num_running = 0
        self._app = app
        self._keys = keys
        self._host_names = host_names
        self._metrics = metrics
        self._log_json = log_json

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(scope["method"], scope["path"], (scope.get("client") or ("",))[0])
        scope["record"] = record

        async def note_status(message: Any) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)

        is_api = scope["path"].startswith("/v1/")
        self._count(1, is_api=is_api)
        try:
            await self._pass(scope, receive, note_status, record, is_api=is_api)
        finally:
            self._count(-1, is_api=is_api)
            self._note(record, is_api=is_api)

    async def _pass(self, scope: Any, receive: Any, send: Any, record: Record, *, is_api: bool) -> None:
        with ExitStack() as admitted:
            try:
                if self._host_names is not None:
                    _check_host(dict(scope["headers"]).get(b"host", b"").decode("latin-1"), self._host_names)
                if is_api:
                    self._admit(scope, record, admitted)
                await self._app(scope, receive, send)
            except CallerLeft:
                record.status = 499
            except Exception as exc:
                error = exc if isinstance(exc, ApiError) else ApiError(500, "the gateway failed: its log says why")
                if error is not exc:
                    log.exception("request %s failed", record.request_id)
                has_begun, record.status, record.error = bool(record.status), error.status, str(error)
                # An answer that has begun is cut off.
                if not has_begun:
                    await error.response()(scope, receive, send)

    def _admit(self, scope: Any, record: Record, admitted: ExitStack) -> None:
        if self._keys is not None:
            headers = dict(scope["headers"])
            record.key_name, record.key = self._keys.find(headers.get(b"authorization", b"").decode("latin-1"))
        if self.is_draining:
            raise draining()
        if self._keys is not None and record.key is not None and record.method == "POST":
            admitted.enter_context(self._keys.admit(record.key_name, record.key))

    def _count(self, change: int, *, is_api: bool) -> None:
        if is_api:
            self.num_running += change
            self._metrics.running.inc(change)

    def _note(self, record: Record, *, is_api: bool) -> None:
        if is_api:
            name, metrics = record.key_name, self._metrics
            metrics.requests.labels(name, record.status).inc()
            metrics.prompt_tokens.labels(name).inc(record.num_prompt_tokens)
            metrics.cached_tokens.labels(name).inc(record.num_cached_tokens)
            metrics.generated_tokens.labels(name).inc(record.num_generated_tokens)
        if is_api or record.status >= 400:
            record.write(as_json=self._log_json)


def _check_host(host: str, names: Sequence[str]) -> None:
    """Refuse a Host header that is neither an IP address nor one of `names`.

    Any page may let its own name mean this machine (DNS rebinding), and then read here as if it came from here.
    """
    name = ""
    with suppress(ValueError):
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        ip_address(name)
        return
    if not any(fnmatchcase(name, each.lower()) for each in names):
        message = f"the Host {host[:100]!r} is not known: start the gateway with --host-name {name[:100] or 'NAME'}"
        raise ApiError(403, message, code="host_not_allowed")
