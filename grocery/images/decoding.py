"""Safe decoding of raw images, and the canonical image that every later step sees.

A raw file passes `decode` and then `canonical`, both by way of `grocery.images.preprocessing`, in
training and in prediction, so that predicting on a raw file gives what the pipeline computed.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from grocery.core.errors import DataError

# Formats decoded inside this process. Others (EPS, for one) start programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

_ORIENTATION = 0x0112  # EXIF tag
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_DEEP_MODES = ("I", "F")  # and all that begin with "I;"
# A deep image does not say which value is white: the least of these that no pixel exceeds.
_INTEGER_WHITE = (2**16 - 1, 2**31 - 1)
_FLOAT_WHITE = (1.0, 255.0, 65535.0)

_OPENING = threading.Lock()  # Pillow's own limit is a global


# What opening and loading an image may take, in bytes per pixel. A decoder that lacks memory often
# says that the file is damaged.
_OPENING_BYTES, _LOADING_BYTES = 8, 16
_PREPARED = 1024 * 1024  # pixels of a canonical image, at most


class UnreadableImage(DataError):
    """A raw file is no image, a damaged one, or too large; the message is a short reason.

    It is a fact about the file. What only happened to fail, for a lack of memory or an error of the
    disk, is a `MemoryError` or an `OSError` with a number.
    """


def decode(data: bytes, *, max_pixels: int) -> Image.Image:
    """Decode a raw file to an upright RGB image.

    The file's name plays no part. EXIF orientation is applied, transparency is laid over white,
    images of more than 8 bits are scaled to 8, and an animation gives its first frame.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Larger images are refused before they are decoded.

    Raises
    ------
    UnreadableImage
        Whatever is wrong with the file.
    MemoryError
        When memory does not suffice to tell.
    """
    if not data:
        raise UnreadableImage("empty file")
    with _unreadable(_OPENING_BYTES * max_pixels):
        image = _open(data, max_pixels)
    return upright_rgb(image)


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert an image that Pillow opened or made to an upright RGB image, as `decode` does.

    The result carries no metadata, so nothing is applied twice.

    Raises
    ------
    UnreadableImage
        When its pixels, which Pillow may have left in the file so far, cannot be decoded.
    MemoryError, OSError
        When memory does not suffice to tell, or the file's disk fails.
    """
    with _unreadable(_LOADING_BYTES * image.width * image.height):
        image.load()
        orientation = _orientation(image)
        image = _rgb(image)
        if orientation in _TRANSPOSE:
            image = image.transpose(_TRANSPOSE[orientation])
    image.info = {}
    return image


def canonical(image: Image.Image, *, size: int, quality: int) -> bytes:
    """Encode an RGB image as the pipeline's JPEG.

    Parameters
    ----------
    image
        An RGB image, see `upright_rgb`.
    size
        Longest side, in pixels. Larger images are reduced, smaller ones are kept.
    quality
        JPEG quality. Chroma has full resolution; there is no metadata.
    """
    longest = max(image.size)
    if longest > size:
        # In whole numbers, halves up. A side of a thin image keeps at least one pixel.
        width, height = (
            max(1, (2 * side * size + longest) // (2 * longest)) for side in image.size
        )
        # Bicubic weights are polynomials; Lanczos would need sin(), whose last bit varies by
        # processor.
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    else:
        image = image.copy()
    image.info = {}  # Pillow would write a comment found here
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=0, progressive=False)
    return stream.getvalue()


def pixels(jpeg: bytes) -> NDArray[np.uint8]:
    """Decode a canonical image to an array of shape (height, width, 3).

    Raises
    ------
    DataError
        When it is not a whole JPEG; `canonical` wrote it, so a shard is damaged.
    """
    try:
        with (
            _unreadable(_LOADING_BYTES * _PREPARED),
            Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image,
        ):
            return np.array(image.convert("RGB"))
    except UnreadableImage as error:
        raise DataError(f"a prepared image cannot be read: {error}") from error


@contextmanager
def _unreadable(memory: int) -> Iterator[None]:
    """Turn whatever a decoder raises into `UnreadableImage`, where it had so many bytes at hand."""
    try:
        yield
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # hostile bytes get nearly every exception out of a decoder
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, not the decoder's
        if not isinstance(error, (UnidentifiedImageError, Image.DecompressionBombError)):
            np.empty(memory, np.uint8)  # a MemoryError where there are not as many; touches none
        raise UnreadableImage(_reason(error)) from error


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header only, and refuse what would be too large to decode."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    count = image.width * image.height
    if count > max_pixels:
        raise UnreadableImage(_too_large(count, max_pixels))
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 when there is none; damaged EXIF data costs no good image."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return value if isinstance(value, int) else 1


def _rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any mode to RGB."""
    if image.mode in _DEEP_MODES or image.mode.startswith("I;"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale a 16-bit, 32-bit or float image to 8 bits; negative values and NaN become black."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0).clip(min=0)
    largest = float(values.max())
    candidates = _FLOAT_WHITE if image.mode == "F" else _INTEGER_WHITE
    white = next((value for value in candidates if largest <= value), largest)
    return Image.fromarray((values * (255 / white) + 0.5).astype(np.uint8))


def _reason(error: Exception) -> str:
    """Say in a few words why Pillow could not read a file."""
    text = " ".join(str(error).split())
    if isinstance(error, Image.DecompressionBombError):
        numbers = [int(number) for number in re.findall(r"\d+", text)]
        # Pillow refuses at twice its limit, and says so.
        return _too_large(numbers[0], numbers[1] // 2) if len(numbers) > 1 else "too many pixels"
    if isinstance(error, UnidentifiedImageError):
        return "not an image of a known format"
    if isinstance(error, EOFError) or "truncated" in text.lower():
        return "truncated"
    # An object's address in the text would differ from run to run.
    return f"damaged: {text}" if text and " at 0x" not in text else "damaged"


def _too_large(count: int, allowed: int) -> str:
    return f"{count:,} pixels, more than the {allowed:,} allowed"
