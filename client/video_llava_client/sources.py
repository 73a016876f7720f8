"""A medium of any kind (a path, bytes, a pipe, an address) as a file that can be opened and rewound."""

import io
import os
import re
import stat
import tempfile
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote_to_bytes, urlsplit

from .deadline import Deadline
from .errors import MediaError, MediaNotFound, UnreadableMedia, VideoLlavaError
from .limits import Budget, MediaLimits
from .unsupported import check_supported

# A mapping is a row of a Hugging Face data set: {"bytes": …, "path": …}.
MediaSource = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Mapping[str, Any]

_CHUNK_BYTES = 1 << 20
_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "udp", "mms")


class MediaFile:
    """A file that can be opened any number of times.

    Attributes:
        name: For messages: the file's name, or the address without its query.
        handle: The path, or a seekable object.
        budget: Its limits; None: the default ones, from now on.
    """

    def __init__(self, name: str, handle: Path | BinaryIO, budget: Budget | None = None) -> None:
        self.name = name
        self.handle = handle
        self.budget: Budget = budget or Budget(MediaLimits(), source=name)

    def rewound(self) -> Path | BinaryIO:
        """Return the path, or the object at its beginning."""
        if not isinstance(self.handle, Path):
            self.handle.seek(0)
        return self.handle

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file at its beginning."""
        handle = self.rewound()
        if isinstance(handle, Path):
            with handle.open("rb") as file:
                yield file
        else:
            yield handle

    def head(self, num_bytes: int) -> bytes:
        """Return the first bytes."""
        with self.opened() as file:
            return file.read(num_bytes)


def is_media(source: object) -> bool:
    """Whether `source` is of one of the types of `MediaSource`."""
    types = str | PathLike | bytes | bytearray | memoryview | Mapping
    return isinstance(source, types) or callable(getattr(source, "read", None))


def scheme_of(source: object) -> str:
    """Return the scheme of an address in lower case, "" for anything else."""
    if not isinstance(source, str):
        return ""
    scheme, _, rest = source[:200].partition(":")
    scheme = scheme.lower()
    if (scheme == "data" and "," in source) or (scheme == "file" and rest.startswith("/")):
        return scheme
    return scheme if rest.startswith("//") and re.fullmatch(r"[a-z][a-z0-9+.-]+", scheme) else ""


def may_be_silent(source: object) -> bool:
    """Whether reading `source` may wait for somebody else: an address, a file object or a pipe."""
    if isinstance(source, Mapping):
        return may_be_silent(source.get("bytes") or source.get("path"))
    if isinstance(source, str | PathLike):
        scheme = scheme_of(source)
        return scheme in ("http", "https") or (not scheme and not os.path.isfile(source))  # noqa: PTH113 (any name)
    return callable(getattr(source, "read", None))


def name_of(source: object) -> str:
    """Return the name of `source` for messages: an address without user, password and query, which may be secret."""
    if isinstance(source, Mapping) and source.get("path"):
        source = source["path"]
    scheme = scheme_of(source)
    if scheme == "data":
        return f"{str(source)[:50].partition(',')[0]},…"
    if scheme not in ("", "file"):
        return _public_name(str(source))
    if isinstance(source, str | PathLike):
        return os.fsdecode(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else f"<{type(source).__name__}>"


@contextmanager
def open_media(source: MediaSource, limits: MediaLimits, *, deadline: Deadline | None = None) -> Iterator[MediaFile]:
    """Make `source` seekable, if necessary through a temporary file. The caller's own object stays open.

    `deadline`: see `Budget`.
    """
    name = name_of(source)
    budget = Budget(limits, source=name, deadline=deadline)
    with ExitStack() as stack:
        try:
            media = MediaFile(name, _handle(source, stack, budget), budget)
            with media.opened() as file:
                check_supported(file, source=name)
        except VideoLlavaError:
            raise
        except (OSError, ValueError, TypeError) as exc:  # the last two: closed, or text instead of bytes
            reason = getattr(exc, "strerror", None) or exc
            raise UnreadableMedia(f"{name}: cannot be read ({reason})", source=name) from exc
        yield media


def _handle(source: MediaSource, stack: ExitStack, budget: Budget) -> Path | BinaryIO:
    """Return a path or a seekable object; `stack` closes what is opened."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if isinstance(source, Mapping):
        return _handle(_in_row(source, budget.source), stack, budget)
    if isinstance(source, str) and (scheme := scheme_of(source)) not in ("", "file"):
        return _fetched(scheme, source, stack, budget)
    if isinstance(source, str | PathLike):
        budget.limits.sources.check_path(source=budget.source)
        path = to_path(source)
        if _is_regular(path):
            return path
        return _spooled(partial(path.open, "rb", buffering=0), stack, budget)
    file = _check_reader(source, budget.source)
    return file if _is_seekable(file) else _spooled(partial(nullcontext, file), stack, budget)


def _in_row(row: Mapping[str, Any], name: str) -> MediaSource:
    """Return the file in a row of a data set."""
    for key in ("bytes", "path"):
        if isinstance(found := row.get(key), bytes | str | PathLike):
            return found
    raise MediaError(f"{name}: expected a row with its file as `bytes` or `path`, got {list(row)[:8]}", source=name)


def _fetched(scheme: str, url: str, stack: ExitStack, budget: Budget) -> BinaryIO:
    """Return what is at an address."""
    if scheme not in ("http", "https", "data"):
        advice = "record a part of it into a file" if scheme in _LIVE else "give an http(s) address, a path or bytes"
        message = f"{budget.source}: {scheme[:20]}:// addresses are not read: {advice}"
        raise MediaError(message, source=budget.source)
    budget.limits.sources.check_scheme(scheme, source=budget.source)
    if scheme == "data":
        return io.BytesIO(_data(url, budget))
    # It loads an HTTP library.
    from .http_file import open_url

    return cast("BinaryIO", stack.enter_context(open_url(url, budget)))


def _data(url: str, budget: Budget) -> bytes:
    """Return the content of a `data:` address."""
    head, _, text = url.partition(",")
    is_base64 = head.lower().rstrip().endswith(";base64")
    budget.check_bytes(len(text) * 3 // 4 if is_base64 else len(text) - 2 * text.count("%"))
    content = unquote_to_bytes(text)
    if not is_base64:
        return content
    try:
        return b64decode(b"".join(content.split()).rstrip(b"=") + b"==", validate=True)
    except ValueError as exc:
        message = f"{budget.source}: its base64 is damaged ({exc}): encode the whole file again"
        raise UnreadableMedia(message, source=budget.source) from exc


def to_path(source: str | PathLike[str]) -> Path:
    """Return the path that a text, a `file:` address or a path with `~` stands for."""
    if scheme_of(source) != "file":
        path = Path(source)
        # ~draft.mp4 is a name.
        if not re.match(r"~$|~[^/]*/", path.as_posix()):
            return path
        try:
            return path.expanduser()
        except RuntimeError as exc:
            message = f"{path}: there is no such user: give the whole path"
            raise MediaNotFound(message, source=str(path)) from exc
    from urllib.request import url2pathname

    parts = urlsplit(str(source))
    if parts.netloc.lower() not in ("", "localhost"):
        message = f"{source}: is on another machine: give an http(s) address, or a path"
        raise MediaError(message, source=str(source))
    return Path(url2pathname(parts.path))


def _public_name(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return f"{url.partition(':')[0].lower()}://…"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _is_regular(path: Path) -> bool:
    """Whether this is a regular file, not a pipe or a device."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        reason = (getattr(exc, "strerror", None) or str(exc)).lower()
        raise MediaNotFound(f"{path}: {reason}: check the name", source=str(path)) from exc
    if stat.S_ISDIR(mode):
        raise UnreadableMedia(f"{path}: is a folder: name one file", source=str(path))
    return stat.S_ISREG(mode)


def _check_reader(source: object, name: str) -> BinaryIO:
    if isinstance(source, io.TextIOBase):
        raise MediaError(f'{name}: is open as text: open it with mode "rb"', source=name)
    if not callable(getattr(source, "read", None)):
        message = f"expected a path, bytes, a binary file object or an address, got {type(source).__name__}"
        raise MediaError(message, source=name)
    return source  # pyright: ignore[reportReturnType]


def _is_seekable(file: BinaryIO) -> bool:
    seekable = getattr(file, "seekable", None)
    return bool(callable(seekable) and seekable())


def _spooled(open_reader: Callable[[], AbstractContextManager[Any]], stack: ExitStack, budget: Budget) -> BinaryIO:
    """Return a temporary file with the content of the reader.

    A read cannot be interrupted, so another thread copies: a silent pipe blocks that thread, not the caller.
    """
    file = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (`stack` closes it)

    def copy() -> None:
        with open_reader() as reader:
            _copy(reader, file, budget)

    budget.wait_for(copy)
    return file


def _copy(reader: Any, file: BinaryIO, budget: Budget) -> None:
    num_bytes = 0
    while chunk := reader.read(_CHUNK_BYTES):
        num_bytes += len(chunk)
        budget.check_bytes(num_bytes)
        budget.check_time()
        file.write(chunk)
    file.flush()
