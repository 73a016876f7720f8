"""/v1/files: upload once, ask many times."""

from __future__ import annotations

import asyncio
import logging
import re
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from .body import Receive, until_caller_leaves
from .errors import ApiError, CallerLeft, refused
from .file_store import FileStore, Upload, too_large
from .folder import StoredFile
from .form import MAX_FORM_BYTES, FileForm
from .record import Record
from .settings import GatewaySettings

log = logging.getLogger("video_llava_gateway")

_SWEEP_SECONDS = 60.0
# Of an upload, in memory.
_PIECE_BYTES = 128 * 1024
_MAX_LISTED = 10_000
_PURPOSE = re.compile(r"[a-z][a-z_-]{0,63}")


class Files:
    """What /v1/files does.

    Args:
        store: The files.
        settings: The gateway's.
    """

    def __init__(self, store: FileStore, settings: GatewaySettings) -> None:
        self._store = store
        self._settings = settings
        self.routes = [
            Route("/v1/files", self._create, methods=["POST"]),
            Route("/v1/files", self._list),
            Route("/v1/files/{id}", self._show),
            Route("/v1/files/{id}", self._delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self._send),
        ]

    async def sweep(self) -> None:
        """Remove expired files, for ever."""
        while True:
            await self._store.remove_expired()
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _create(self, request: Request) -> Response:
        record: Record = request.scope["record"]
        _check_origin(request.headers, record)
        await self._store.remove_expired()
        try:
            upload = self._store.begin(record.key_name, record.key.max_files_bytes if record.key else None)
            is_kept = False
            try:
                async with asyncio.timeout(self._settings.upload_seconds):
                    form = await self._read(request.headers, request.receive, upload)
                file = await self._finish(request.receive, upload, form)
                upload.keep(file)
                is_kept = True
            finally:
                await upload.end(is_kept=is_kept)
        except TimeoutError:
            seconds = self._settings.upload_seconds
            raise ApiError(408, f"the file did not arrive within {seconds:g} s", code="timeout") from None
        except OSError as exc:
            log.error("an upload of %r failed: %s", record.key_name, exc)
            raise ApiError(507, "the gateway cannot write the file: its log says why", code="disk_failed") from exc
        return JSONResponse(_shown(file))

    async def _read(self, headers: Headers, receive: Receive, upload: Upload) -> FileForm:
        """Write the file of a form while it arrives; the form, the disk and the digest are work for a thread."""
        form = FileForm(headers.get("content-type", ""), upload.write)
        most, num_bytes, piece = self._store.max_file_bytes, 0, bytearray()
        length = headers.get("content-length", "")
        if length.isdecimal():
            if int(length) > most + MAX_FORM_BYTES:
                raise too_large(most)
            upload.check_room(int(length))
        more = True
        while more:
            data, more = await self._receive(receive)
            num_bytes += len(data)
            if num_bytes > most + MAX_FORM_BYTES:
                raise too_large(most)
            upload.reserve(len(data))
            piece += data
            if len(piece) >= _PIECE_BYTES or not more:
                await self._store.in_thread(partial(form.feed, piece))
                piece = bytearray()
                if num_bytes - upload.num_bytes > MAX_FORM_BYTES:
                    raise ApiError(413, f"the form has more than {MAX_FORM_BYTES} bytes beside its file")
        return form

    async def _receive(self, receive: Receive) -> tuple[bytes, bool]:
        """Return what came next, and whether more will come."""
        seconds = self._settings.body_seconds
        message = None
        with suppress(TimeoutError):
            message = await asyncio.wait_for(receive(), seconds)
        if message is None:
            raise ApiError(408, f"nothing arrived for {seconds:g} s", code="timeout")
        if message["type"] == "http.disconnect":
            raise CallerLeft
        return message.get("body", b""), message.get("more_body", False)

    async def _finish(self, receive: Receive, upload: Upload, form: FileForm) -> StoredFile:
        """Check the form, and return its file, unless the caller leaves."""
        if not form.is_complete:
            raise ApiError(400, "the form has no end: send it again")
        if not upload.num_bytes:
            raise refused("file", "is missing or empty: send a form with a file")
        purpose = form.fields.get("purpose", "")
        if not _PURPOSE.fullmatch(purpose):
            raise refused("purpose", f"must be a word, such as user_data or vision, got {purpose[:60]!r}")
        seconds = self._lifetime(form.fields)
        files: list[StoredFile] = []

        async def finish() -> None:
            files.append(
                await self._store.in_thread(
                    lambda: upload.finish(filename=form.filename or "upload", purpose=purpose, seconds=seconds)
                )
            )

        await until_caller_leaves(receive, finish())
        return files[0]

    def _lifetime(self, fields: dict[str, str]) -> int:
        most = int(self._settings.file_seconds)
        given = fields.get("expires_after[seconds]")
        if fields.get("expires_after[anchor]", "created_at") != "created_at":
            raise refused("expires_after", "its anchor must be created_at")
        if given is None:
            return most
        if not (given.isdecimal() and len(given) < 10 and 0 < int(given) <= most):
            raise refused("expires_after", f"its seconds must be from 1 to {most} here, got {given[:20]!r}")
        return int(given)

    async def _list(self, request: Request) -> Response:
        params = request.query_params
        limit = params.get("limit", str(_MAX_LISTED))
        if not (limit.isdecimal() and len(limit) < 10 and int(limit)):
            raise refused("limit", f"must be a number above 0, got {limit[:20]!r}")
        files = self._store.of(request.scope["record"].key_name)
        if params.get("order", "desc") == "desc":
            files.reverse()
        if after := params.get("after"):
            places = [index for index, file in enumerate(files) if file.id == after]
            if not places:
                raise refused("after", f"there is no file {after[:50]!r}")
            files = files[places[0] + 1 :]
        if purpose := params.get("purpose"):
            files = [file for file in files if file.purpose == purpose]
        shown = [_shown(file) for file in files[: min(int(limit), _MAX_LISTED)]]
        ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
        return JSONResponse({"object": "list", "data": shown, "has_more": len(shown) < len(files), **ends})

    async def _show(self, request: Request) -> Response:
        return JSONResponse(_shown(self._find(request)))

    async def _delete(self, request: Request) -> Response:
        file = self._find(request)
        await self._store.delete(file)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    async def _send(self, request: Request) -> Response:
        file = self._find(request)
        if not self._store.path(file).exists():
            raise ApiError(404, f"the content of {file.id} has been deleted: upload it again", code="file_not_found")
        return _Download(self._store, file, self._settings.upload_seconds)

    def _find(self, request: Request) -> StoredFile:
        return self._store.find(request.scope["record"].key_name, request.path_params["id"])


class _Download(FileResponse):
    """The content of a file; who does not read it is given up after `seconds`."""

    def __init__(self, store: FileStore, file: StoredFile, seconds: float) -> None:
        super().__init__(store.path(file), media_type="application/octet-stream", filename=file.filename)
        self._seconds = seconds

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await super().__call__(scope, receive, send)
        except TimeoutError:
            raise ApiError(504, f"the file was not read within {self._seconds:g} s", code="timeout") from None


def _check_origin(headers: Headers, record: Record) -> None:
    """Refuse forms of pages from elsewhere: unlike JSON, a browser sends them to any address without asking."""
    origin = headers.get("origin")
    if record.key is None and origin and urlsplit(origin).netloc != headers.get("host"):
        raise ApiError(403, f"a page of {origin[:100]!r} may not upload here without a key")


def _shown(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }
