"""A form with one file (multipart/form-data), parsed while it arrives."""

from __future__ import annotations

from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .errors import ApiError, refused

MAX_FORM_BYTES = 64 * 1024
"""Of a form without the content of its file."""

_MAX_FIELDS = 16
_MAX_FIELD_BYTES = 4096
_MAX_FILENAME_LENGTH = 255


class FileForm:
    """The fields of a form, and the name of its file.

    Args:
        content_type: Of the request.
        write: Gets the content of the file, part by part.

    Attributes:
        fields: The values of the others, by name.
        filename: None until the file has begun.
        is_complete: Whether the end has come.

    Raises:
        ApiError: It is no such form (415).
    """

    def __init__(self, content_type: str, write: Callable[[memoryview], None]) -> None:
        kind, options = parse_options_header(content_type.encode("latin-1"))
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            raise ApiError(415, "send a form with a file: Content-Type: multipart/form-data; boundary=…")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.is_complete = False
        self._write = write
        self._name = ""
        self._value = bytearray()
        self._header, self._header_value, self._disposition = bytearray(), bytearray(), b""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_begin": self._begin_header,
                    "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": self._add,
                    "on_part_end": self._end_part,
                    "on_end": self._end,
                },
            )
        except FormParserError as exc:
            raise ApiError(415, f"the form cannot be read: {exc}") from exc

    def feed(self, data: bytes | bytearray) -> None:
        """Parse what came next; ApiError 400 if this is no form."""
        try:
            self._parser.write(data)  # pyright: ignore[reportArgumentType] (bytearray has what it uses)
        except FormParserError as exc:
            raise ApiError(400, f"the form cannot be read: {exc}") from exc

    def _begin_part(self) -> None:
        self._name, self._disposition = "", b""
        self._value.clear()

    def _begin_header(self) -> None:
        self._header.clear()
        self._header_value.clear()

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)

    def _begin_content(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name != "file":
            if len(self.fields) >= _MAX_FIELDS:
                raise ApiError(400, f"the form has more than {_MAX_FIELDS} fields: send file and purpose")
        elif self.filename is not None:
            raise refused("file", "comes twice: send one file")
        else:
            self.filename = options.get(b"filename", b"").decode(errors="replace")[-_MAX_FILENAME_LENGTH:]

    def _add(self, data: bytes | bytearray, start: int, end: int) -> None:
        if self._name == "file":
            self._write(memoryview(data)[start:end])
        elif len(self._value) + end - start > _MAX_FIELD_BYTES:
            raise refused(self._name[:100], f"has more than {_MAX_FIELD_BYTES} bytes")
        else:
            self._value += data[start:end]

    def _end_part(self) -> None:
        if self._name != "file":
            self.fields[self._name] = self._value.decode(errors="replace")

    def _end(self) -> None:
        self.is_complete = True
