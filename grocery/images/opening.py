"""Opens a file of any supported format, and says in a few words why it cannot be opened."""

from __future__ import annotations

import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from grocery.core.errors import NotInstalled, UnreadableImage

# Formats decoded inside this process. Others (EPS, for one) start programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF")
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_HEIC_SINCE = [1, 7]  # older versions of pillow-heif bring a libheif that writes out of bounds
_NO_HEIC = (
    "HEIC, which needs pillow-heif (`make extras`, or pip install 'pillow-heif>=1.7'); or convert "
    "it to JPEG"
)
# First bytes of what is often found among photographs.
_RAW = "a camera's raw file"
_OTHERS = {
    rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51": "JPEG 2000",
    rb"\x00\x00\x00\x0cJXL |\xff\x0a": "JPEG XL",
    rb"%PDF": "PDF",
    rb"%!PS|\xc5\xd0\xd3\xc6": "PostScript",
    rb"8BPS": "Photoshop",
    rb"....ftypcrx |FUJIFILMCCD-RAW|IIR[OS]|IIU\x00": _RAW,
    rb"....ftypM4[AB] |ID3|fLaC|RIFF....WAVE": "a sound",
    rb"\x1aE\xdf\xa3|RIFF....AVI |\x00\x00\x01[\xb3\xba]|FLV|OggS|....(ftyp|moov|mdat)"
    rb"|\x30\x26\xb2\x75": "a video",
    rb"\x00\x00[\x01\x02]\x00|icns": "an icon",
    rb"PK\x03\x04|7z\xbc\xaf|Rar!|\x1f\x8b": "an archive",
    rb"(?i:(\xef\xbb\xbf)?\s*(<!doctype html|<html|<head))": "HTML",
    rb"(?i:(\xef\xbb\xbf)?\s*(<[?!][^>]*>\s*)*<svg)": "SVG",
    rb"version https://git-lfs": "a pointer of Git LFS",
}
# Bytes of memory that are allowed per pixel of max_pixels, and those that decoders take, if more.
_ALLOWED = 8
_TAKEN = {"WEBP": 20, "AVIF": 16, "HEIF": 16}
logging.getLogger("PIL").addHandler(logging.NullHandler())  # or its errors reach the terminal
_ALONE = threading.Lock()  # Pillow's own limit, Python's filters and standard error are global


def opened(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header of a file, and refuse what would be too large to decode."""
    with undisturbed():
        try:
            heic = _brands(data) & _HEIC and not _brands(data) & _AVIF
            image = _heic(data) if heic else Image.open(io.BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise UnreadableImage(_unidentified(data)) from None
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            _turn_to_the_picture(image)
    count = image.width * image.height
    like = int(count * max(1, _taken(image, len(data)) / _ALLOWED))
    if max(count, like) > max_pixels:
        much = "" if count > max_pixels else f" of {image.format}, as much memory as {like:,} take"
        allowed = f"prepare.max_pixels allows {max_pixels:,}"
        raise UnreadableImage(f"too many pixels: {count:,}{much}; {allowed}")
    return image


def load(image: Image.Image) -> None:
    """Decode an image's pixels, in silence: what libtiff writes to standard error names no file."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()
        return
    with undisturbed(), ExitStack() as stack:
        with suppress(OSError):  # where standard error is closed
            before = os.dup(2)
            stack.callback(os.close, before)
            with open(os.devnull, "wb") as nothing:
                os.dup2(nothing.fileno(), 2)
            stack.callback(os.dup2, before, 2)
        image.load()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Pillow's warnings from the terminal, and its own limit out of the way."""
    with _ALONE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _brands(data: bytes) -> set[bytes]:
    """What an ISO media file (HEIC, AVIF, video) says that it is."""
    end = min(int.from_bytes(data[:4], "big"), 1024) if data[4:8] == b"ftyp" else 0
    return {data[place : place + 4] for place in range(8, end, 4)}


def _heic(data: bytes) -> Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise NotInstalled(_NO_HEIC) from None
    if [int(n) for n in re.findall(r"\d+", pillow_heif.__version__)] < _HEIC_SINCE:
        raise NotInstalled(_NO_HEIC)
    opener: Callable[[io.BytesIO], Image.Image] = pillow_heif.HeifImageFile
    return opener(io.BytesIO(data))


def _turn_to_the_picture(image: TiffImagePlugin.TiffImageFile) -> None:
    """Leave thumbnails and masks that come first; where there is nothing else, take the largest."""
    largest, found = 0, 0
    for page in range(64):
        try:
            image.seek(page)
        except EOFError:
            break
        kind = image.tag_v2.get(254, 0)
        if not (isinstance(kind, int) and kind & 5):
            return
        if image.width * image.height > largest:
            largest, found = image.width * image.height, page
    image.seek(found)
    if 330 in image.tag_v2:  # pages of another kind, which Pillow does not know
        raise UnreadableImage(f"{_RAW}, which is no supported image")


def _taken(image: Image.Image, size: int) -> float:
    """Bytes that decoding a file of this size takes per pixel."""
    if "progressive" in image.info:  # all coefficients are kept until the last scan
        return 2 * len(image.getbands()) + size / (image.width * image.height)
    tags = getattr(image, "tag_v2", {})
    if not isinstance(image, TiffImagePlugin.TiffImageFile) or tags.get(259, 1) == 1:
        return _TAKEN.get(image.format or "", 0)
    # libtiff decodes a strip or a tile at a time, and one of YCbCr also to RGBA.
    sample = sum(tags.get(258, (1,))) / 8 + (4 if tags.get(262) == 6 else 0)
    rows = tags.get(323, min(tags.get(278, image.height), image.height))
    return float(4 + sample * tags.get(322, image.width) * rows / (image.width * image.height))


def reason(error: Exception) -> str:
    """Say in a few words why Pillow could not read a file."""
    text = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError):
        return "too many pixels"
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    if re.search(r"\b(un|not )supported\b|unknown pixel mode", text, re.IGNORECASE):
        return f"unsupported layout: {text}"
    # An object's address in the text would differ from run to run.
    return f"damaged: {text}" if text and " at 0x" not in text else "damaged"


def _unidentified(data: bytes) -> str:
    """Why Pillow does not know a file: it is of another kind, or a damaged one of ours."""
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is None or accept(data[:16]) is True:
            try:
                factory(io.BytesIO(data), "")
            except MemoryError:
                raise
            except Exception as error:
                return reason(error) + _samples(data, str(error))
    for pattern, kind in _OTHERS.items():
        if re.match(pattern, data[:1024], re.DOTALL):
            return f"{kind}, which is no supported image"
    return "not an image of a known format"


def _samples(data: bytes, said: str) -> str:
    """What a pixel of an unsupported TIFF consists of."""
    if said != "unknown pixel mode":
        return ""
    tags = Image.Exif()
    tags.load(data)
    bits, *_ = np.atleast_1d(tags.get(258, 1))
    kind, *_ = np.atleast_1d(tags.get(339, 1))
    return f" ({tags.get(277, 1)} samples of {bits} bits{', float' if kind == 3 else ''})"
