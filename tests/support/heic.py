"""A HEIC photo as phones write it: tiles of HEVC in a grid, turned by a property."""

import struct
from pathlib import Path

import av
import numpy as np

from support.videos import write_pictures

TILE = 64
_GRID = 5  # the item of the whole picture, after those of four tiles


def write_heic(path: Path, pixels: np.ndarray, *, quarter_turns: int = 0, brand: bytes = b"heic") -> Path:
    """Write uint8 [height, width, 3], at most 128 x 128, as four tiles; turned counterclockwise when shown."""
    height, width, _ = pixels.shape
    canvas = np.zeros((2 * TILE, 2 * TILE, 3), np.uint8)
    canvas[:height, :width] = pixels
    tiles = [canvas[y : y + TILE, x : x + TILE] for y in (0, TILE) for x in (0, TILE)]
    options = {"x265-params": "log-level=none:keyint=1:crf=4", "tag": "hvc1"}
    source = write_pictures(path.with_suffix(".tiles.mp4"), tiles, codec="libx265", pix_fmt="yuv444p", options=options)
    with av.open(str(source)) as container:
        samples = [bytes(packet) for packet in container.demux(video=0) if packet.size]
        configuration = container.streams.video[0].codec_context.extradata or b""
    head = _box(b"ftyp", brand + bytes(4) + b"mif1" + brand)
    meta = _meta(samples, configuration, (width, height), quarter_turns, offset=0)
    meta = _meta(samples, configuration, (width, height), quarter_turns, offset=len(head) + len(meta) + 8)
    path.write_bytes(head + meta + _box(b"mdat", b"".join(samples)))
    source.unlink()
    return path


def _meta(samples: list[bytes], configuration: bytes, size: tuple[int, int], quarter_turns: int, offset: int) -> bytes:
    tiles = range(1, _GRID)
    items = [_full(b"infe", struct.pack(">HH4sB", item, 0, b"hvc1", 0), version=2, flags=1) for item in tiles]
    items.append(_full(b"infe", struct.pack(">HH4sB", _GRID, 0, b"grid", 0), version=2))
    properties = _box(b"hvcC", configuration) + _size(TILE, TILE) + _size(*size) + _box(b"irot", bytes([quarter_turns]))
    uses = [struct.pack(">HBBB", item, 2, 0x81, 2) for item in tiles] + [struct.pack(">HBBB", _GRID, 2, 3, 0x84)]
    places = [struct.pack(">HHHHII", _GRID, 1, 0, 1, 0, 8)]
    for item, sample in zip(tiles, samples, strict=True):
        places.append(struct.pack(">HHHHII", item, 0, 0, 1, offset, len(sample)))
        offset += len(sample)
    boxes = [
        _full(b"hdlr", bytes(4) + b"pict" + bytes(13)),
        _full(b"pitm", struct.pack(">H", _GRID)),
        _full(b"iinf", struct.pack(">H", len(items)) + b"".join(items)),
        _full(b"iref", _box(b"dimg", struct.pack(">HH4H", _GRID, 4, *tiles))),
        _box(b"iprp", _box(b"ipco", properties) + _full(b"ipma", struct.pack(">I", len(uses)) + b"".join(uses))),
        _full(b"iloc", struct.pack(">BBH", 0x44, 0, len(places)) + b"".join(places), version=1),
        _box(b"idat", struct.pack(">BBBBHH", 0, 0, 1, 1, *size)),
    ]
    return _full(b"meta", b"".join(boxes))


def _size(width: int, height: int) -> bytes:
    return _full(b"ispe", struct.pack(">II", width, height))


def _full(kind: bytes, content: bytes, *, version: int = 0, flags: int = 0) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags) + content)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
