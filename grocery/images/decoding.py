"""Safe decoding of raw images, and the canonical image that every later step sees.

A raw file passes `decode` and then `canonical`, both by way of `grocery.images.preprocessing`, in
training and in prediction, so that predicting on a raw file gives what the pipeline computed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from grocery.core.errors import DataError, NotInstalled, UnreadableImage
from grocery.images import opening
from grocery.images.colours import Note, halvings, key_of, rgb
from grocery.images.mending import check_parts, mended

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

# What opening and loading an image may take, in bytes per pixel. A decoder that lacks memory often
# says that the file is damaged.
_OPENING_BYTES, _LOADING_BYTES = 8, 16
_PREPARED = 1024 * 1024  # pixels of a canonical image, at most


def _ignore(_: str) -> None:
    pass


def decode(
    data: bytes, *, max_pixels: int, profiles: bool = True, note: Note = _ignore
) -> Image.Image:
    """Decode a raw file to an upright RGB image.

    The file's name plays no part. EXIF orientation is applied, transparency is laid over white,
    images of more than 8 bits are scaled to 8, and an animation gives its first frame. A picture of
    more than `grocery.images.colours.LARGE` pixels is halved until it has no more.

    Parameters
    ----------
    data
        The whole file.
    max_pixels
        Larger images are refused before they are decoded.
    profiles
        Whether an embedded colour profile is applied; if not, its levels count as sRGB's.
    note
        Called with a sentence on what is wrong with a file whose pixels can be read all the same.

    Raises
    ------
    UnreadableImage
        Whatever is wrong with the file.
    NotInstalled
        When it is HEIC, and what decodes that is not there.
    MemoryError
        When memory does not suffice to tell.
    """
    if not data:
        raise UnreadableImage("empty file")
    check_parts(data)
    try:
        return _decoded(data, max_pixels, profiles, note)
    except UnreadableImage as error:
        instead, said = mended(data)
        found: list[Image.Image] = []
        try:
            for each in instead:
                found.append(_decoded(each, max_pixels, profiles, _ignore if found else note))
        except UnreadableImage:
            found = []
        if not found or found[0] != found[-1]:
            raise error
        note(said)
        return found[0]


def _decoded(data: bytes, max_pixels: int, profiles: bool, note: Note) -> Image.Image:
    with _unreadable(_OPENING_BYTES * max_pixels):
        image = opening.opened(data, max_pixels)
        if isinstance(image, JpegImagePlugin.JpegImageFile):
            factor = halvings(image.size)
            if factor > 1:  # decoded at a half, a quarter or an eighth
                image.draft(None, (image.width // factor or 1, image.height // factor or 1))
    return upright_rgb(image, profiles=profiles, note=note)


def upright_rgb(image: Image.Image, *, profiles: bool = True, note: Note = _ignore) -> Image.Image:
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
        key = key_of(image)
        opening.load(image)
        orientation = _orientation(image)
        image = rgb(image, key=key, profiles=profiles, note=note)
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
    except (UnreadableImage, NotInstalled, MemoryError):
        raise
    except Exception as error:  # hostile bytes get nearly every exception out of a decoder
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, not the decoder's
        if not isinstance(error, (UnidentifiedImageError, Image.DecompressionBombError)):
            np.empty(memory, np.uint8)  # a MemoryError where there are not as many; touches none
        raise UnreadableImage(opening.reason(error)) from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 when there is none; damaged EXIF data costs no good image."""
    try:
        with opening.undisturbed():
            value = image.getexif().get(_ORIENTATION, 1)
    except MemoryError:
        raise
    except Exception:
        return 1
    return value if isinstance(value, int) else 1
