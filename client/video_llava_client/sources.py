"""A medium of any kind (a path, bytes, a pipe, an address) as a file that can be opened and rewound."""

import io
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from .deadline import Deadline
from .errors import MediaError, MediaNotFound, UnreadableMedia, VideoLlavaError
from .http_file import is_url, open_url, public_name
from .limits import Budget, MediaLimits

MediaSource = str | PathLike[str] | bytes | bytearray | memoryview | BinaryIO

_CHUNK_BYTES = 1 << 20


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
        self.budget = budget or Budget(MediaLimits(), source=name)

    def rewound(self) -> Path | BinaryIO:
        """Return the path, or the object at its beginning."""
        if not isinstance(self.handle, Path):
            self.handle.seek(0)
        return self.handle

    def head(self, num_bytes: int) -> bytes:
        """Return the first bytes."""
        handle = self.rewound()
        if not isinstance(handle, Path):
            return handle.read(num_bytes)
        with handle.open("rb") as file:
            return file.read(num_bytes)


def is_media(source: object) -> bool:
    """Whether `source` is of one of the types of `MediaSource`."""
    return isinstance(source, str | PathLike | bytes | bytearray | memoryview) or callable(
        getattr(source, "read", None)
    )


def may_be_silent(source: object) -> bool:
    """Whether reading `source` may wait for somebody else: an address, a file object or a pipe."""
    if isinstance(source, str | PathLike):
        return is_url(source) or not Path(source).is_file()
    return callable(getattr(source, "read", None))


def name_of(source: object) -> str:
    """Return the name of `source` for messages."""
    if is_url(source):
        return public_name(str(source))
    if isinstance(source, str | PathLike):
        return os.fspath(source)
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
            handle = _handle(source, stack, budget)
        except OSError as exc:
            if isinstance(exc, VideoLlavaError):
                raise
            raise UnreadableMedia(f"{name}: cannot be read ({exc.strerror or exc})", source=name) from exc
        yield MediaFile(name, handle, budget)


def _handle(source: MediaSource, stack: ExitStack, budget: Budget) -> Path | BinaryIO:
    """Return a path or a seekable object; `stack` closes what is opened."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    if is_url(source):
        file: BinaryIO = stack.enter_context(open_url(str(source), budget))
        open_reader = partial(nullcontext, file)
    elif isinstance(source, str | PathLike):
        path = Path(source)
        if _is_regular(path):
            return path
        return _spooled(partial(path.open, "rb", buffering=0), stack, budget)
    else:
        file = _check_reader(source, budget.source)
        open_reader = partial(nullcontext, file)
    if _is_seekable(file):
        return file
    return _spooled(open_reader, stack, budget)


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
        message = f"expected a path, bytes, a binary file object or an http(s) address, got {type(source).__name__}"
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
    copied: Future[None] = Future()

    def copy() -> None:
        try:
            with open_reader() as reader:
                _copy(reader, file, budget)
            copied.set_result(None)
        except BaseException as exc:  # noqa: BLE001 (the caller raises it)
            copied.set_exception(exc)

    threading.Thread(target=copy, name="video-llava-spool", daemon=True).start()
    try:
        copied.result(timeout=budget.remaining_seconds)
    except TimeoutError as exc:
        raise exc if isinstance(exc, VideoLlavaError) else budget.timed_out() from exc
    return file


def _copy(reader: Any, file: BinaryIO, budget: Budget) -> None:
    num_bytes = 0
    while chunk := reader.read(_CHUNK_BYTES):
        num_bytes += len(chunk)
        budget.check_bytes(num_bytes)
        budget.check_time()
        file.write(chunk)
    file.flush()
