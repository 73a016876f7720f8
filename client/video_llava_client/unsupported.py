"""Files that are no video and no image, though they are taken for one: web pages, playlists, encrypted files."""

from __future__ import annotations

import re
from typing import BinaryIO

from .errors import UnreadableMedia

_HEAD_BYTES = 32 * 1024
_MAX_BOXES = 64
_MAX_INDEX_BYTES = 1024 * 1024

_PLAYLIST = "give one of the files that it names"
_PAGE = ("a web page (HTML)", "give the address of the file itself")
# The first element, after a declaration and comments.
_XML = re.compile(rb"(?is)\s*(?:<\?xml[^>]{0,200}>\s*|<!--.{0,2000}?-->\s*|<!doctype[^>]{0,500}>\s*)*<([\w:]+)")
_ELEMENTS = {
    **dict.fromkeys((b"html", b"head", b"body", b"script", b"meta", b"title"), _PAGE),
    b"mpd": ("a playlist (DASH)", _PLAYLIST),
    **dict.fromkeys((b"playlist", b"asx", b"smil"), ("a playlist", _PLAYLIST)),
    b"svg": ("a drawing (SVG)", "convert it to PNG"),
}
_BEGINNINGS = (
    (rb"\s*<!doctype html", *_PAGE),
    (rb"#EXTM3U", "a playlist (M3U)", _PLAYLIST),
    (rb"\[playlist\]", "a playlist (PLS)", _PLAYLIST),
    (rb"(?:#[^\n]{0,200}\n|\s)*(?:ffconcat version|file\s+['\"\w./])", "a playlist (concat)", _PLAYLIST),
    (rb"v=0\r?\no=", "a description of a live stream (SDP)", "record a part of it into a file"),
    (rb"%PDF-", "a document (PDF)", "convert its pages to PNG"),
)
# The type of the first sample description; in Matroska, an element ContentEncryption.
_MP4_ENCRYPTED = re.compile(rb"stsd.{12}(?:encv|drmi)", re.DOTALL)
_MATROSKA_ENCRYPTED = re.compile(rb"\x62\x40.{1,60}?\x50\x35.{1,8}?\x47[\xe1\xe2\xe7]", re.DOTALL)


def check_supported(file: BinaryIO, *, source: str) -> None:
    """Raise UnreadableMedia, which says what it is, if `file`, at its beginning, is no medium."""
    if found := _recognise(file):
        what, advice = found
        raise UnreadableMedia(f"{source}: is {what}: {advice}", source=source)


def check_encryption(file: BinaryIO, *, source: str) -> None:
    """Raise UnreadableMedia if `file`, an MP4 or Matroska file at its beginning, is encrypted."""
    head = file.read(_HEAD_BYTES)
    is_matroska, is_mp4 = head[:4] == b"\x1a\x45\xdf\xa3", head[4:8] in (b"ftyp", b"moov", b"styp")
    if (is_matroska and _MATROSKA_ENCRYPTED.search(head)) or (is_mp4 and _MP4_ENCRYPTED.search(_mp4_index(file))):
        message = f"{source}: is encrypted: give a copy without copy protection"
        raise UnreadableMedia(message, source=source)


def _recognise(file: BinaryIO) -> tuple[str, str] | None:
    head = file.read(_HEAD_BYTES)
    text = head[:4096].removeprefix(b"\xef\xbb\xbf")
    for pattern, what, advice in _BEGINNINGS:
        if re.match(pattern, text, re.IGNORECASE):
            return what, advice
    if (element := _XML.match(text)) and (found := _ELEMENTS.get(element[1].lower())):
        return found
    return None


def _mp4_index(file: BinaryIO) -> bytes:
    """Return the beginning of an MP4 file's box `moov`."""
    position = 0
    for _ in range(_MAX_BOXES):
        file.seek(position)
        header = file.read(16)
        size, kind = int.from_bytes(header[:4]), header[4:8]
        if kind == b"moov":
            return header + file.read(min(size, _MAX_INDEX_BYTES))
        size = int.from_bytes(header[8:16]) if size == 1 else size
        position += size
        if size < 8 or position > 2**62:
            break
    return b""
