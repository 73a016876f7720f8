"""A file on an HTTP server, read by ranges where the server sends them."""

import io
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import closing

from .errors import UnreadableMedia
from .http_client import HttpClient, Response
from .limits import Budget

# What FFmpeg reads at once.
_MIN_FETCH_BYTES = 32 * 1024
_MAX_AHEAD_BYTES = 4 * 1024 * 1024
# Of what was fetched, so much may turn out not to be needed: a request costs time too.
_SPARE_SHARE = 0.16
# Up to this, the rest is fetched at once.
_SMALL_FILE_BYTES = 512 * 1024
# More while the file is read without a jump, as images and some videos are to their end.
_FIRST_AHEAD_BYTES = 256 * 1024
_COMPRESSED = {"gzip", "x-gzip", "compress", "deflate", "br", "zstd"}


def open_url(url: str, budget: Budget) -> io.RawIOBase:
    """Open the file at `url`, seekable."""
    return _HttpFile(HttpClient(url, budget), budget)


class _HttpFile(io.RawIOBase):
    """No byte is fetched twice: a temporary file keeps them."""

    def __init__(self, client: HttpClient, budget: Budget) -> None:
        self._kept = tempfile.TemporaryFile()  # noqa: SIM115 (`close` closes it)
        self._client = client
        self._budget = budget
        self._parts = _Parts()
        self._position = self._num_received = 0
        # Where the last fetch ended, its bytes beyond what was asked for, and the sum of those that were not read next.
        self._next = self._num_ahead = self._num_given_up = 0
        self._has_jumped = False
        # The body, where the server sends no ranges.
        self._rest: Iterator[bytes] | None = None
        try:
            self._size, self._etag = self._begin()
        except BaseException:
            self.close()
            raise

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        stop = min(self._size, self._position + len(buffer))
        self._budget.check_time()
        while (missing := self._parts.missing_from(self._position, self._size)) and missing[0] < stop:
            self._fetch(*missing, stop)
        self._kept.seek(self._position)
        num_bytes = self._kept.readinto(memoryview(buffer)[: max(0, stop - self._position)])
        self._position += num_bytes
        return num_bytes

    def close(self) -> None:
        self._rest = None
        self._client.close()
        self._kept.close()
        super().close()

    def _begin(self) -> tuple[int, str]:
        """Fetch the first bytes; return the size and the ETag."""
        response = self._client.get(Range=f"bytes=0-{_MIN_FETCH_BYTES - 1}")
        if response.status != 200 and _size(response) is None:
            response.close()
            response = self._client.get()
        self._check_kind(response)
        if response.status == 200:
            size = self._begin_whole(response)
        elif size := _size(response):
            self._next = self._receive(response, 0, _MIN_FETCH_BYTES)
        if size is None:
            raise self._client.unreadable("the server sends a part of the file, of unknown size")
        if size == 0:
            raise UnreadableMedia(f"{self._budget.source}: is empty: give another file", source=self._budget.source)
        return size, response.headers.get("etag", "")

    def _begin_whole(self, response: Response) -> int:
        """Read the file as it comes, as far as it is needed; one of unknown size at once. Return the size."""
        length = response.headers.get("content-length", "")
        if "transfer-encoding" in response.headers or not re.fullmatch(r"\d{1,18}", length):
            return self._keep(response.chunks(), 0, math.inf)
        self._budget.check_bytes(int(length))
        self._rest = response.chunks()
        return int(length)

    def _fetch(self, start: int, limit: int, wanted: int) -> None:
        """Fetch from `start` to `wanted`, and what may be read next, but nothing from `limit` on."""
        if self._rest is not None:
            self._next = self._keep(self._rest, self._next, wanted)
            self._check_end(self._next, wanted)
            return
        stop = min(wanted + self._choose_ahead(start, wanted), limit)
        response = self._client.get(Range=f"bytes={start}-{stop - 1}")
        etag = response.headers.get("etag", "")
        is_changed = etag and self._etag and etag != self._etag and "W/" not in etag + self._etag
        if response.status == 416 or _size(response) not in (None, self._size) or is_changed:
            raise self._client.unreadable("the file changed on the server while it was read")
        self._next = self._receive(response, start, stop)

    def _choose_ahead(self, start: int, wanted: int) -> int:
        """Return how many bytes to fetch beyond `wanted`."""
        if self._size <= _SMALL_FILE_BYTES:
            return self._size
        is_next = start == self._next
        if not is_next:
            self._has_jumped = True
            self._num_given_up += self._num_ahead
        spare = max(0, int(self._num_received * _SPARE_SHARE) - self._num_given_up)
        if is_next:
            first = 0 if self._has_jumped else min(self._num_received, _FIRST_AHEAD_BYTES)
            self._num_ahead = min(max(spare, first), _MAX_AHEAD_BYTES)
        else:
            self._num_ahead = min(spare, max(0, start + _MIN_FETCH_BYTES - wanted))
        return self._num_ahead

    def _receive(self, response: Response, start: int, stop: int) -> int:
        """Keep the range from `start` to `stop`, or what the server sends of it; return where that ended."""
        stop = min(stop, self._promised_end(response, start))
        with closing(response):
            end = self._keep(response.chunks(), start, stop)
        self._check_end(end, stop)
        return end

    def _check_end(self, end: int, wanted: int) -> None:
        if end < wanted:
            raise self._client.unreadable(f"the connection ended {wanted - end} bytes too early")

    def _keep(self, chunks: Iterator[bytes], start: int, stop: float) -> int:
        """Keep what comes, from `start` on, until it is more than up to `stop`; return where it ended."""
        end = start
        self._kept.seek(start)
        # At `stop` itself, the end of the answer has not been read.
        while end <= stop and (chunk := next(chunks, b"")):
            self._kept.write(chunk)
            end += len(chunk)
            self._num_received += len(chunk)
            self._budget.check_bytes(self._num_received)
        self._parts.add(start, end)
        return end

    def _promised_end(self, response: Response, start: int) -> int:
        """Return where the range that the server announces ends."""
        if response.status != 206:
            raise self._client.unreadable("the server stopped sending ranges of the file")
        announced = response.headers.get("content-range", "")
        found = re.match(r"bytes (\d{1,18})-(\d{1,18})/", announced)
        if not found or int(found[1]) != start or int(found[2]) < start:
            raise self._client.unreadable(f"asked for bytes from {start} on, the server sent {announced[:60]!r}")
        return int(found[2]) + 1

    def _check_kind(self, response: Response) -> None:
        """Raise MediaError if the headers say that this is no medium."""
        source, kind = self._budget.source, response.headers.get("content-type", "").lower()
        if kind.startswith(("text/html", "application/xhtml")):
            message = f"{source}: is a web page (HTML), not a media file: give the address of the file itself"
            raise UnreadableMedia(message, source=source)
        self._budget.limits.sources.check_content_type(kind, source=source)
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding in _COMPRESSED:
            raise self._client.unreadable(f"the server sends it compressed, as {encoding}")


class _Parts:
    """The parts of a file that are there, as (start, end): disjoint, in order."""

    def __init__(self) -> None:
        self._parts: list[tuple[int, int]] = []

    def add(self, start: int, end: int) -> None:
        """Add a part; with those that it touches it becomes one."""
        apart = [part for part in self._parts if part[1] < start or part[0] > end]
        touching = [(start, end), *(part for part in self._parts if part not in apart)]
        self._parts = sorted([*apart, (min(each[0] for each in touching), max(each[1] for each in touching))])

    def missing_from(self, position: int, size: int) -> tuple[int, int] | None:
        """Return the first missing part from `position` on, of a file of `size` bytes."""
        for start, end in self._parts:
            if start > position:
                return position, start
            position = max(position, end)
        return (position, size) if position < size else None


def _size(response: Response) -> int | None:
    """Return the size of the whole file: "bytes 0-499/500", or "bytes */500" for a range that is not in it."""
    size = response.headers.get("content-range", "").rpartition("/")[2]
    return int(size) if response.status in (206, 416) and re.fullmatch(r"\d{1,18}", size) else None
