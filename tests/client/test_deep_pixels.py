"""Grey of 16 and 32 bits is shown as viewers show it, where Pillow would clip it."""

import numpy as np
import pytest
from PIL import Image
from video_llava_client import load_image

RAMP = np.linspace(0, 65_535, 64 * 64).reshape(64, 64)
SHOWN = np.repeat(np.rint(RAMP / 257).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits(suffix, tmp_path):
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(RAMP.astype(np.uint16)).save(path)
    for source in (path, Image.open(path)):
        assert np.abs(load_image(source, size=64).astype(int) - SHOWN).max() <= 1


def test_sixteen_bits_of_each_colour(tmp_path):
    # Pillow reads it, but does not write it.
    path = tmp_path / "colours.png"
    path.write_bytes(png_of_16_bits(np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2).astype(">u2")))
    expected = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=2) / 257
    assert np.abs(load_image(path, size=64) - expected).max() <= 1


def png_of_16_bits(pixels):
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (RAMP.astype(np.int32), "from 0 to 65535: 0 is shown black and 65535 white"),
        (RAMP.astype(np.float32), "from 0 to 65535: 0 is shown black and 65535 white"),
        ((RAMP / 65_535).astype(np.float32), "from 0 to 1: 0 is shown black and 1 white"),
        ((RAMP / 257).astype(np.int32), "from 0 to 255: 0 is shown black and 255 white"),
        ((RAMP * 3 - 5000).astype(np.int32), "from -5000 to 191605: -5000 is shown black and 191605 white"),
        ((RAMP / 65_535 - 0.5).astype(np.float32), "from -0.5 to 0.5: -0.5 is shown black and 0.5 white"),
    ],
)
def test_thirty_two_bits(values, said, tmp_path):
    path = tmp_path / "ramp.tiff"
    Image.fromarray(values).save(path)
    with pytest.warns(UserWarning, match=rf"ramp\.tiff: pixels of 32 bits, {said}; the reference clips"):
        shown = load_image(path, size=64)
    assert np.abs(shown.astype(int) - SHOWN).max() <= 1


def test_values_that_are_no_numbers():
    values = (RAMP / 65_535).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    with pytest.warns(UserWarning, match="from .* to 1: 0 is shown black"):
        assert load_image(Image.fromarray(values), size=64)[0, 1, 0] == 255
    with pytest.warns(UserWarning, match="from 300000 to 300000"):
        assert not load_image(Image.fromarray(np.full((64, 64), 300_000, np.int32)), size=64).any()
