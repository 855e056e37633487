"""Odd files that cameras, phones and tools really make, made here."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from samples import encoded, picture

TURNED = Image.Exif()  # of a camera that was held upright
TURNED[0x0112] = 6


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(65536 * number) for number in numbers))


def profile(space: bytes, tags: Mapping[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile of version 2.4, see ICC.1:2001-04."""
    head = bytes(4) + b"\x02\x40\0\0mntr" + space + connection + bytes(12) + b"acsp" + bytes(28)
    head += _fixed(0.9642, 1, 0.8249)
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    whole = head.ljust(124, b"\0") + table + body
    return struct.pack(">I", len(whole) + 4) + whole


def _xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


LINEAR = b"curv\0\0\0\0\0\0\0\0"
_WHITE = {b"wtpt": _xyz(0.9642, 1, 0.8249)}
_RED, _GREEN, _BLUE = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
# Red and blue change places, and levels count light: 128 is what sRGB calls 188.
SWAPPED = profile(
    b"RGB ",
    _WHITE
    | {b"rXYZ": _xyz(*_BLUE), b"gXYZ": _xyz(*_GREEN), b"bXYZ": _xyz(*_RED)}
    | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), LINEAR),
)
LINEAR_GREY = profile(b"GRAY", _WHITE | {b"kTRC": LINEAR})
# A press whose first ink alone darkens: Lab lightness 100 without it, 0 with it.
_ramp = bytes(range(256))
_clut = bytes(level for ink in range(16) for level in (0 if ink & 8 else 255, 128, 128))
_lab = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
_lab += _ramp * 4 + _clut + _ramp * 3
PRESS = profile(b"CMYK", _WHITE | {b"A2B0": _lab}, connection=b"Lab ")


def chunk(name: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + check


def png(bits: int, colour: int, rows: Sequence[bytes], width: int, *chunks: bytes) -> bytes:
    """A PNG of rows as the file has them."""
    head = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    whole = (chunk(b"IHDR", head), *chunks, chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def with_chunk(data: bytes, added: bytes) -> bytes:
    """A PNG with one more chunk, the second."""
    return data[:33] + added + data[33:]


def damaged(added: bytes) -> bytes:
    return added[:-1] + bytes([added[-1] ^ 255])


def tiff(values: NDArray[Any]) -> bytes:
    """An uncompressed TIFF of an array (height, width) or (height, width, samples)."""
    height, width, samples = (*values.shape, 1)[:3]
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    entries = [
        *((256, width), (257, height), (258, 8 * values.dtype.itemsize), (259, 1)),
        *((262, 2 if samples == 3 else 1), (273, 134), (277, samples), (278, height)),
        *((279, len(data)), (339, kind)),
    ]
    ifd = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + ifd + bytes(4) + data


def retagged(data: bytes, tag: int, value: int) -> bytes:
    """A TIFF of `tiff` with another value of a tag."""
    place = next(p for p in range(10, len(data), 12) if data[p : p + 2] == struct.pack("<H", tag))
    return data[: place + 8] + struct.pack("<I", value) + data[place + 12 :]


def pages(*kinds: int) -> bytes:
    """A TIFF of a small page and a larger one, and what each of them says that it is."""
    images = [picture(1, (16, 12)), picture(2)]
    data = encoded(images[0], "TIFF", save_all=True, append_images=images[1:], tiffinfo={254: 9})
    for kind in kinds:
        data = data.replace(
            struct.pack("<HHII", 254, 4, 1, 9), struct.pack("<HHII", 254, 4, 1, kind), 1
        )
    return data


def ramp(white: float, kind: Any = np.float32) -> NDArray[Any]:
    """Rows of 256 levels from black to white."""
    return (np.linspace(0, 1, 256) * white).astype(kind)[None].repeat(16, axis=0)


def spoilt(values: NDArray[Any], *levels: float) -> NDArray[Any]:
    values = values.copy()
    values[0, : len(levels)] = levels
    return values
