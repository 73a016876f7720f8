"""Media of requests as frames: decoded once, kept while there is room."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import BinaryIO, TypeVar
from weakref import WeakValueDictionary

import numpy as np
from video_llava_client import AsyncVideoLlava, Clip, ClipInfo, VideoLlavaError
from video_llava_client.images import in_groups
from video_llava_client.sampling import sample_indices

from .conversation import Source
from .data_url import read_data_url
from .errors import ApiError, from_client_error, refused
from .file_store import DIGEST_BYTES, FileStore
from .folder import PREFIX, StoredFile
from .metrics import Metrics
from .protocol import MediaOptions

T = TypeVar("T")
Content = bytes | StoredFile | list[bytes] | str
"""A file, the frames of a video, or an http(s) address."""

_MAX_NAMES = 2**16
_NOTHING = np.empty(0, np.uint8)
# Requests whose base64 is read at a time. Decoding has its own bound, in the client.
_MAX_READERS = 4


class MediaStore:
    """Decodes the media of requests, at most one request the same medium at a time.

    Decoded frames are kept by the digest of the content, the least recently used ones go first. So a conversation that
    is sent again is not decoded again.

    Args:
        client: Decodes, in threads or processes of its own.
        max_bytes: Of frames that are kept.
        allows_addresses: Media may be http(s) addresses: those that the client's `SourcePolicy` allows.
        metrics: Counts.
        files: Those that media may name.
    """

    def __init__(
        self,
        client: AsyncVideoLlava,
        *,
        max_bytes: int,
        allows_addresses: bool,
        metrics: Metrics,
        files: FileStore | None = None,
    ) -> None:
        self._client = client
        self._allows_addresses = allows_addresses
        self._metrics = metrics
        self._files = files
        self._cache = _Cache(max_bytes)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._readers = asyncio.Semaphore(_MAX_READERS)

    async def videos(self, sources: Iterable[Source], options: MediaOptions, *, owner: str) -> list[Clip]:
        """Return clips; `owner` is the key whose uuids count. ApiError names the medium that cannot be used."""
        return await _together(self._video(source, options, owner) for source in sources)

    async def images(self, sources: Iterable[Source], *, owner: str) -> list[np.ndarray]:
        """Return images, uint8 [height, width, 3]; else as `videos`."""
        return await _together(self._image(source, owner) for source in sources)

    async def _image(self, source: Source, owner: str) -> np.ndarray:
        def decode(content: Content) -> Awaitable[np.ndarray]:
            if isinstance(content, list):
                raise refused(source.param, "has the frames of a video (video/jpeg): give it as video_url")
            return self._decoded_image(content)

        return await self._kept(source, owner, "image", decode)

    async def _video(self, source: Source, options: MediaOptions, owner: str) -> Clip:
        if source.frames:
            self._check_whole(source, options)
            return await self._clip(source.frames, partial(self._kept_frames, owner=owner))

        async def decode(content: Content) -> Clip:
            if isinstance(content, list):
                self._check_whole(source, options)
                return await self._clip(content, self._decoded_frames)
            window = options.model_dump(include={"start_seconds", "end_seconds"})
            return await self._client.load(self._opened(content), **window)

        return await self._kept(source, owner, f"video {options.start_seconds} {options.end_seconds}", decode)

    async def _kept_frames(self, sources: Iterable[Source], *, owner: str) -> list[np.ndarray]:
        async def decode(content: Content) -> np.ndarray:
            assert not isinstance(content, list), "a frame is no video"
            return (await self._decoded_frames([self._opened(content)]))[0]

        return await _together(self._kept(source, owner, "frame", decode) for source in sources)

    async def _decoded_image(self, content: bytes | StoredFile | str) -> np.ndarray:
        return (await self._client.chat(images=[self._opened(content)])).history.images[0]

    async def _decoded_frames(self, contents: Iterable[bytes | BinaryIO | str]) -> list[np.ndarray]:
        conventions = await self._client.conventions()
        as_images = self._client.with_options(conventions=conventions.of_frames)
        chats = await _together(as_images.chat(images=group) for group in in_groups(contents))
        return [image for chat in chats for image in chat.history.images]

    async def _clip(self, frames: Sequence[T], decode: Callable[[list[T]], Awaitable[list[np.ndarray]]]) -> Clip:
        """Decode the frames that the model sees of those that were sent."""
        conventions = await self._client.conventions()
        indices = sample_indices(len(frames), conventions.sampling, num_chosen=conventions.num_frames)
        shown = sorted(set(indices))
        decoded = dict(zip(shown, await decode([frames[index] for index in shown]), strict=True))
        info = ClipInfo("frames", indices, (None,) * len(indices), num_frames=len(frames))
        return Clip(np.stack([decoded[index] for index in indices]), info)

    def _opened(self, content: bytes | StoredFile | str) -> bytes | BinaryIO | str:
        """Return what the client decodes: of a file, an open one, since paths are not allowed."""
        if not isinstance(content, StoredFile):
            return content
        assert self._files
        return self._files.open(content)

    async def _kept(self, source: Source, owner: str, form: str, decode: Callable[[Content], Awaitable[T]]) -> T:
        """Return the medium in a form, from the cache or decoded."""
        name = f"{owner} {form} {source.uuid}"
        # Data decide; what an address has now is not known.
        if not _has_digest(source) and source.uuid is not None:
            known = self._cache.get(self._cache.digest_of(name))
            if known is not None:
                self._metrics.cache_hits.inc()
                return known
            if source.url is None:
                message = f"uuid {source.uuid!r} is not known (any more): send its data too"
                raise refused(source.param, message, code="unknown_uuid")
        content, digest = await self._read(source, owner)
        digest = f"{form} {digest}"
        async with self._locks.setdefault(digest, asyncio.Lock()):
            medium = self._cache.get(digest) if _has_digest(source) else None
            if medium is None:
                self._metrics.cache_misses.inc()
                medium = await self._decode(source, decode(content))
                self._cache.put(digest, medium)
            else:
                self._metrics.cache_hits.inc()
        if source.uuid is not None:
            self._cache.name(name, digest)
        return medium

    async def _read(self, source: Source, owner: str) -> tuple[Content, str]:
        """Return the content of a medium, and its digest, or its address."""
        url = source.url or ""
        if _is_file(url):
            return self._find(source, url, owner)
        if not _has_digest(source):
            if self._allows_addresses and url.lower().startswith(("http://", "https://")):
                return url, url
            allowed = "data:, http: and https:" if self._allows_addresses else "data:"
            raise refused(source.param, f"only {allowed} addresses are allowed, got {url[:40]!r}", code="invalid_media")
        async with self._readers:
            try:
                return await asyncio.to_thread(_read, url)
            except ValueError as exc:
                raise refused(source.param, str(exc), code="invalid_media") from exc

    def _find(self, source: Source, file_id: str, owner: str) -> tuple[Content, str]:
        if self._files is None:
            raise refused(source.param, "this gateway keeps no files: send data", code="invalid_media")
        try:
            file = self._files.find(owner, file_id)
        except ApiError as exc:
            raise refused(source.param, str(exc), code=exc.code) from exc
        return file, file.digest

    async def _decode(self, source: Source, decoding: Awaitable[T]) -> T:
        started = time.perf_counter()
        try:
            return await decoding
        except VideoLlavaError as exc:
            raise from_client_error(exc, param=source.param) from exc
        except FileNotFoundError as exc:  # deleted since it was found
            raise refused(source.param, "its file has been deleted: upload it again", code="file_not_found") from exc
        finally:
            self._metrics.decode_seconds.observe(time.perf_counter() - started)

    def _check_whole(self, source: Source, options: MediaOptions) -> None:
        if options.start_seconds is not None or options.end_seconds is not None:
            raise refused(
                "mm_processor_kwargs", f"start_seconds and end_seconds need a file, {source.param} has frames"
            )


class _Cache:
    """Media by the digest of their content, at most `max_bytes`; names are those of their callers."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._media: OrderedDict[str, object] = OrderedDict()
        self._digests: OrderedDict[str, str] = OrderedDict()

    def get(self, digest: str) -> T | None:
        medium = self._media.get(digest)
        if medium is not None:
            self._media.move_to_end(digest)
        return medium  # pyright: ignore[reportReturnType] (the digest says what it is)

    def put(self, digest: str, medium: object) -> None:
        self._num_bytes -= _num_bytes(self._media.pop(digest, _NOTHING))
        self._media[digest] = medium
        self._num_bytes += _num_bytes(medium)
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= _num_bytes(self._media.popitem(last=False)[1])

    def name(self, name: str, digest: str) -> None:
        self._digests[name] = digest
        self._digests.move_to_end(name)
        if len(self._digests) > _MAX_NAMES:
            self._digests.popitem(last=False)

    def digest_of(self, name: str) -> str:
        return self._digests.get(name, "")


def _num_bytes(medium: object) -> int:
    return (medium.frames if isinstance(medium, Clip) else np.asarray(medium)).nbytes


def _has_digest(source: Source) -> bool:
    return source.url is not None and (source.url[:5].lower() == "data:" or _is_file(source.url))


def _is_file(url: str) -> bool:
    return url.startswith(PREFIX)


def _read(url: str) -> tuple[Content, str]:
    """Return the content of a data address, and its digest: that of a file is the same if it is uploaded."""
    content = read_data_url(url)
    if not isinstance(content, list):
        return content, hashlib.blake2b(content, digest_size=DIGEST_BYTES).hexdigest()
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for frame in content:
        digest.update(len(frame).to_bytes(8))
        digest.update(frame)
    return content, f"frames {digest.hexdigest()}"


async def _together(works: Iterable[Awaitable[T]]) -> list[T]:
    """Return all results; the first error ends the other works. The client bounds how many are decoded at a time."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
