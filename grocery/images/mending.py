"""Files whose pixels are all there, though something else is damaged: what can be read instead."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from itertools import islice

from grocery.core.errors import UnreadableImage

# Photographs have about ten scans at most; a hostile file's each take as long as all of these.
_MOST_SCANS = 100
_MOST_PARTS = 100_000  # segments or chunks, each of which Pillow keeps
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd8])", re.DOTALL)
_JPEG, _END = b"\xff\xd8", b"\xff\xd9"
# Bytes that would decode to something, were they needed: no pixel may depend on them.
_FILLER = bytes((73 * place + 41) % 255 for place in range(1024))
_PNG = b"\x89PNG\r\n\x1a\n"


def check_parts(data: bytes) -> None:
    """Refuse a JPEG or a PNG of so many parts that they take any time and memory."""
    if data.startswith(_JPEG):
        _jpeg_scans(data)
    elif data.startswith(_PNG) and next(islice(_png_chunks(data), _MOST_PARTS, None), None):
        raise UnreadableImage(f"too many chunks: a PNG may have {_MOST_PARTS:,}")


def _jpeg_scans(data: bytes) -> list[bytes]:
    """Headers of a JPEG's scans, none of a thumbnail's."""
    scans: list[bytes] = []
    place = 2
    for _ in range(_MOST_PARTS):
        match = _MARKER.search(data, place)
        if match is None or match[1] == _END[1:]:
            return scans
        place = match.end() + max(2, int.from_bytes(data[match.end() : match.end() + 2], "big"))
        if match[1] == b"\xda":
            scans.append(data[match.end() + 2 : place])
            if len(scans) > _MOST_SCANS:
                raise UnreadableImage(f"too many scans: a JPEG may have {_MOST_SCANS}")
    raise UnreadableImage(f"too many segments: a JPEG may have {_MOST_PARTS:,}")


def mended(data: bytes) -> tuple[list[bytes], str]:
    """Files that can be read instead of a damaged one, none or two at most; what is wrong with it.

    Both must give the same pixels, or pixels are missing.
    """
    if data.startswith(_JPEG):
        whole = data.rstrip(b"\xff")
        if not whole.endswith(_END) and _complete(_jpeg_scans(data)):
            ends = (_END, _FILLER + _END)
            return [whole + end for end in ends], "the end marker is missing"
    elif data.startswith(_PNG):
        kept, dropped = _without_damaged_chunks(data)
        if dropped:
            return [kept], f"damaged beside its pixels, so {', '.join(dropped)} are left out"
    return [], ""


def _complete(scans: list[bytes]) -> bool:
    """Whether scans hold the last bit of each coefficient of the components that they show."""
    begun: set[int] = set()
    done: set[tuple[int, int]] = set()
    for count, *header in filter(None, scans):
        components, spectrum = header[: 2 * count : 2], header[2 * count : 2 * count + 3]
        begun.update(components)
        if len(spectrum) == 3 and spectrum[2] & 15 == 0:
            places = range(spectrum[0], spectrum[1] + 1)
            done.update((each, place) for each in components for place in places)
    return 0 < 64 * len(begun) == len(done)


def _png_chunks(data: bytes) -> Iterator[memoryview]:
    place, view = len(_PNG), memoryview(data)
    while chunk := view[place : place + 12 + int.from_bytes(view[place : place + 4], "big")]:
        place += len(chunk)
        yield chunk


def _without_damaged_chunks(data: bytes) -> tuple[bytes, list[str]]:
    """A PNG without texts and without damaged chunks that no pixel depends on; which these are."""
    kept: list[bytes | memoryview] = [_PNG]
    dropped = set()
    for chunk in _png_chunks(data):
        name, intact = bytes(chunk[4:8]), zlib.crc32(chunk[4:-4]).to_bytes(4, "big") == chunk[-4:]
        text = name in (b"tEXt", b"zTXt", b"iTXt")
        if text or (name[:1].islower() and name != b"tRNS" and not intact):
            dropped.add(name.decode("ascii", "replace"))
        else:
            kept.append(chunk)
    return b"".join(kept), sorted(dropped)
