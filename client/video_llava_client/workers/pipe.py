"""Messages between this process and one that decodes: a JSON object and bytes."""

import json
import struct
from collections.abc import Mapping
from typing import IO, Any

# Of a medium, in one message.
CHUNK_BYTES = 64 * 1024
_LENGTHS = struct.Struct(">IQ")
_MAX_HEADER_BYTES = 2**20


class Pipe:
    """Sends and receives messages. Nothing in them is executed, unlike a pickle: a file may take its decoder over."""

    def __init__(self, reader: IO[bytes], writer: IO[bytes]) -> None:
        self._reader: Any = reader
        self._writer = writer

    def send(self, header: Mapping[str, Any], data: bytes | memoryview = b"") -> None:
        """Send one message."""
        text = json.dumps(header).encode()
        self._writer.write(_LENGTHS.pack(len(text), len(data)) + text)
        self._writer.write(data)
        self._writer.flush()

    def receive(self, max_bytes: int = 0) -> tuple[dict[str, Any], bytearray]:
        """Return the next message.

        Raises:
            EOFError: The other side has ended, or sent what is no message or has more than `max_bytes` of data.
        """
        header_length, num_bytes = _LENGTHS.unpack(self._read(_LENGTHS.size))
        if header_length > _MAX_HEADER_BYTES or num_bytes > max_bytes:
            raise EOFError(f"a message of {header_length} and {num_bytes} bytes")
        try:
            return dict(json.loads(self._read(header_length))), self._read(num_bytes)
        except (ValueError, TypeError) as exc:
            raise EOFError(f"not a message: {exc}") from exc

    def _read(self, num_bytes: int) -> bytearray:
        data = bytearray(num_bytes)
        # A buffered reader reads until the buffer is full or the pipe ends.
        if self._reader.readinto(data) < num_bytes:
            raise EOFError
        return data
