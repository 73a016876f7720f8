"""Leaves machine code for one generation of GPUs in a shared library: `.nv_fatbin` holds it for many.

A section is a row of containers, one for each source file; a container is a row of entries, one for each generation.
Offsets stay as they are: what is left out becomes zeros, which compress to nothing. A container that loses everything
keeps the smallest entry for a generation that is not at hand, as if the file had not been built for this one.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_MAGIC, _ZSTD = 0xBA55ED50, b"\x28\xb5\x2f\xfd"
_MACHINE_CODE = 2
_OTHER_GENERATIONS = (75, 80, 86)


@dataclass(frozen=True)
class _Entry:
    start: int
    header_bytes: int
    payload_bytes: int
    compressed_bytes: int
    raw_bytes: int
    kind: int
    generation: int

    def is_for(self, *generations: int) -> bool:
        return self.kind == _MACHINE_CODE and self.generation in generations

    def read(self, data: bytes) -> bytes:
        return data[self.start : self.start + self.header_bytes + self.payload_bytes]

    def kernels(self, data: bytes) -> list[str]:
        import zstandard  # pyright: ignore[reportMissingImports]  # kit.py installs it

        begin = self.start + self.header_bytes
        payload = data[begin : begin + (self.compressed_bytes or self.payload_bytes)]
        if payload.startswith(_ZSTD):
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=self.raw_bytes + 64)
        return [name.removeprefix(".text.") for name in _sections(payload) if name.startswith(".text.")]


def thin(library: Path, generation: int, *, drop: str = "") -> None:
    """Rewrite `library` for `generation` (90: Hopper), without containers of whose kernels each matches `drop`."""
    data = library.read_bytes()
    start, size = _sections(data)[".nv_fatbin"]
    containers = list(_containers(data, start, start + size))
    entries = {begin: list(_entries(data, begin, end)) for begin, end in containers}
    others = [each for row in entries.values() for each in row if each.is_for(*_OTHER_GENERATIONS)]
    smallest = min((each.read(data) for each in others), key=len)
    result = bytearray(data)
    for begin, end in containers:
        kept = [each for each in entries[begin] if each.is_for(generation)]
        kernels = kept[0].kernels(data) if kept and drop else []
        if kernels and all(re.search(drop, kernel) for kernel in kernels):
            kept = []
        code = b"".join(each.read(data) for each in kept) or smallest
        assert len(code) <= end - begin, f"{library}: a container has no room for {len(code)} bytes"
        result[begin:end] = code + bytes(end - begin - len(code))
        struct.pack_into("<Q", result, begin - 8, len(code))
    library.write_bytes(result)


def _sections(elf: bytes) -> dict[str, tuple[int, int]]:
    """Offset and size by name."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    entry_bytes, count, names_at = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + number * entry_bytes) for number in range(count)]
    names = headers[names_at][4]
    return {elf[names + row[0] : elf.index(b"\0", names + row[0])].decode(): (row[4], row[5]) for row in headers}


def _containers(data: bytes, position: int, end: int) -> Iterator[tuple[int, int]]:
    """Begin and end of what each container holds."""
    while position + 16 <= end:
        magic, _, header_bytes, size = struct.unpack_from("<IHHQ", data, position)
        if magic == _MAGIC:
            yield position + header_bytes, position + header_bytes + size
            position += header_bytes + size
            position += -position % 8
        else:
            position += 8


def _entries(data: bytes, position: int, end: int) -> Iterator[_Entry]:
    while position < end:
        kind, _, header_bytes = struct.unpack_from("<HHI", data, position)
        payload_bytes, compressed_bytes = struct.unpack_from("<QI", data, position + 8)
        (generation,) = struct.unpack_from("<I", data, position + 28)
        (raw_bytes,) = struct.unpack_from("<Q", data, position + 56)
        yield _Entry(position, header_bytes, payload_bytes, compressed_bytes, raw_bytes, kind, generation)
        position += header_bytes + payload_bytes
