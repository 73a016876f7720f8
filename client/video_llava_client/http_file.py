"""A file on an HTTP server, read by ranges where the server sends them."""

import base64
import http.client
import io
import re
import urllib.error
import urllib.parse
import urllib.request

from .errors import MediaError, MediaNotFound, UnreadableMedia
from .limits import Budget

# Up to this, reading on is faster than a new request.
_LONGEST_SKIP_BYTES = 512 * 1024
_BUFFER_BYTES = 64 * 1024


def is_url(source: object) -> bool:
    """Whether `source` is the address of a file on an HTTP server."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def public_name(url: str) -> str:
    """Return `url` without user, password and query, which may be secret."""
    return _without_user(url.partition("#")[0].partition("?")[0])


def open_url(url: str, budget: Budget) -> io.BufferedReader:
    """Open the file at `url`; seekable if the server sends ranges."""
    return io.BufferedReader(_HttpFile(url, budget), _BUFFER_BYTES)


class _HttpFile(io.RawIOBase):
    def __init__(self, url: str, budget: Budget) -> None:
        self._url = url
        self._source = public_name(url)
        self._budget = budget
        self._num_read_bytes = 0
        self._wanted = self._position = 0
        self._response: http.client.HTTPResponse | None = None
        self._response = response = self._request(0)
        # 206: the server sends ranges, with the whole size: "bytes 0-499/500".
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
        self._size = int(size) if response.status == 206 and size.isdigit() else None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._size is not None

    def tell(self) -> int:
        return self._wanted

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if self._size is None:
            raise io.UnsupportedOperation(f"{self._source}: the server sends no ranges of the file")
        self._wanted = max(0, offset + (0, self._wanted, self._size)[whence])
        return self._wanted

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._size is not None and self._wanted >= self._size:
            return 0
        self._go_to_wanted()
        return self._receive(buffer)

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
        super().close()

    def _go_to_wanted(self) -> None:
        if 0 < self._wanted - self._position <= _LONGEST_SKIP_BYTES:
            wanted = self._wanted
            while self._position < wanted and self._receive(memoryview(bytearray(wanted - self._position))):
                pass
            self._wanted = wanted
        if self._position != self._wanted:
            assert self._response is not None
            self._response.close()
            self._response = response = self._request(self._wanted)
            self._position = self._wanted
            if response.status != 206:
                raise self._unreadable("the server stopped sending ranges of the file")

    def _receive(self, buffer: bytearray | memoryview) -> int:
        self._budget.check_time()
        assert self._response is not None
        try:
            num_bytes = self._response.readinto(buffer)
        except TimeoutError as exc:
            raise self._budget.timed_out() from exc
        except (OSError, http.client.HTTPException) as exc:
            raise self._unreadable(str(exc)) from exc
        # `length`: what the server announced and has not sent.
        if not num_bytes and self._response.length and len(buffer):
            raise self._unreadable(f"the connection ended {self._response.length} bytes too early")
        self._num_read_bytes += num_bytes
        self._budget.check_bytes(self._num_read_bytes)
        self._position += num_bytes
        self._wanted = self._position
        return num_bytes

    def _request(self, first_byte: int) -> http.client.HTTPResponse:
        headers = {"Range": f"bytes={first_byte}-", "Accept-Encoding": "identity"}
        try:
            request = urllib.request.Request(_without_user(self._url), headers=headers)
            if user := urllib.parse.unquote(urllib.parse.urlsplit(self._url).netloc.rpartition("@")[0]):
                # Not sent to the target of a redirect.
                token = base64.b64encode(user.encode()).decode()
                request.add_unredirected_header("Authorization", f"Basic {token}")
            return _opener().open(request, timeout=self._budget.remaining_seconds)
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code in (404, 410):
                message = f"{self._source}: the server has no such file (HTTP {exc.code}): check the address"
                raise MediaNotFound(message, source=self._source) from exc
            raise self._unreadable(f"HTTP {exc.code} {exc.reason}") from exc
        except (OSError, ValueError, http.client.HTTPException) as exc:
            if isinstance(getattr(exc, "reason", exc), TimeoutError):
                raise self._budget.timed_out() from exc
            raise self._unreadable(str(getattr(exc, "reason", exc))) from exc

    def _unreadable(self, reason: str) -> MediaError:
        message = f"{self._source}: cannot be fetched ({reason}): check the address and the network"
        return UnreadableMedia(message, source=self._source)


def _without_user(url: str) -> str:
    return re.sub(r"^(\w+://)[^/]*@", r"\1", url)


def _opener() -> urllib.request.OpenerDirector:
    # urllib's default opener would follow a redirect to FTP.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener
