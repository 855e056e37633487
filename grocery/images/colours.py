"""Decoded pixels of any mode to the 8 bits of sRGB that are meant."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import inf, isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps

Note = Callable[[str], None]  # takes a sentence on a file that is read all the same
Transform = tuple[str, ImageCms.ImageCmsTransform]  # with the mode that it takes

LARGE = 2**24  # pixels of a picture, at most; larger ones are halved
_TILE = 2048  # side of what is converted at a time, so that there is no second copy of all

_MOST_PROFILE = 4 * 2**20  # bytes; those of printing presses have two million
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # of profiles, and Pillow's modes
_ROUNDING = 2  # levels by which profiles of sRGB differ from each other

_DEEP = ("I", "F", "I;")  # beginnings of modes
_SIXTEEN_BITS = 2.0**16 - 1
_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339  # tags of a TIFF
# What white usually is where a picture does not say it; _DARK is too small a share of it.
_USUAL = {"I": (_SIXTEEN_BITS, 2.0**31 - 1, 2.0**32 - 1), "F": (1.0, 255.0, _SIXTEEN_BITS)}
_DARK = 1 / 16
_SAMPLE = 2**20  # pixels that white is guessed from, about


def halvings(size: tuple[int, int]) -> int:
    """The power of two that a picture of this size is reduced by."""
    return int(2 ** (-(-max(0, (size[0] * size[1] - 1) // LARGE).bit_length() // 2)))


def key_of(image: Image.Image) -> Any:
    """The transparent colour of an image that is not loaded yet, or None.

    Pillow gives that of a PNG in the levels of the file, not in those that are decoded.
    """
    key = image.info.get("transparency")
    raw = next((tile.args for tile in getattr(image, "tile", ())), None)
    if isinstance(key, int) and raw in ("L;2", "L;4"):
        return key * {"L;2": 85, "L;4": 17}[raw]
    return tuple(level >> 8 for level in key) if raw == "RGB;16B" and key else key


@np.errstate(invalid="ignore")  # of levels that are no numbers
def rgb(image: Image.Image, *, key: Any, profiles: bool, note: Note) -> Image.Image:
    """Convert a loaded image to RGB, and halve it where it is `LARGE`.

    Transparency (and `key`, see `key_of`) is laid over white, and images of more than 8 bits are
    scaled to 8. With `profiles` an embedded colour profile is applied.
    """
    factor = halvings(image.size)
    white = _white(image) if image.mode[:2] in _DEEP else None
    transform = _transform(image, note) if profiles or image.mode == "LAB" else None
    if image.mode == "RGB" and key is None and transform is None and factor == 1:
        return image.convert("RGB")
    found = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for (left, top), part in _tiles(image):
        tile = part
        if white is not None:
            tile = _eight_bits(_values(part, image), white, key)
            if _tags(image).get(_PHOTOMETRIC) == 0:  # which Pillow minds of 8 bits alone
                tile = ImageOps.invert(tile)
        elif key is not None:
            tile.info["transparency"] = key
        found.paste(_flat(tile, transform).reduce(factor), (left // factor, top // factor))
    return found


def _tiles(image: Image.Image) -> Iterator[tuple[tuple[int, int], Image.Image]]:
    """Parts of an image with their places; not by `crop`, which minds Pillow's own limit."""
    for top in range(0, image.height, _TILE):
        for left in range(0, image.width, _TILE):
            width, height = min(_TILE, image.width - left), min(_TILE, image.height - top)
            box = (left, top, left + width, top + height)
            yield (left, top), image.resize((width, height), Image.Resampling.NEAREST, box)


def _flat(tile: Image.Image, transform: Transform | None) -> Image.Image:
    """Transform the colours, and lay what is transparent over white."""
    alpha = None
    if tile.has_transparency_data:
        tile = tile.convert("RGBA")
        alpha = tile.getchannel("A")
    found = tile.convert("RGB") if transform is None else _applied(tile, *transform)
    if alpha is None:
        return found
    found.putalpha(alpha)
    return Image.alpha_composite(Image.new("RGBA", tile.size, "white"), found).convert("RGB")


def _values(tile: Image.Image, image: Image.Image) -> NDArray[np.float64]:
    """Levels of a part of a deep image. Pillow gives a sign to 32 bits of a TIFF that have none."""
    tags, values = _tags(image), np.asarray(tile)
    unsigned = image.mode == "I" and tags.get(_BITS) == (32,) and not _signed(tags)
    return (values.view(np.uint32) if unsigned else values).astype(np.float64)


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", {})


def _signed(tags: Any) -> bool:
    return bool(tags.get(_FORMAT, (1,))[0] == 2)


def _white(image: Image.Image) -> float:
    """Which level of a deep image is white; one of floats or of 32 bits does not say it.

    It is a usual white that at most one in a hundred pixels exceeds. Where that would leave the
    whole picture dark, it is what the brightest pixels have.
    """
    usual = 32 if image.mode in _USUAL and image.format != "PPM" else 16
    bits, *_ = _tags(image).get(_BITS, (usual,))
    if bits <= 16 and image.mode != "F":
        return float(2 ** (bits - _signed(_tags(image))) - 1)
    step = isqrt(image.width * image.height // _SAMPLE) + 1
    parts = (_values(tile, image)[::step, ::step] for _, tile in _tiles(image))
    values = np.concatenate([part[np.isfinite(part) & (part > 0)] for part in parts])
    if not len(values):
        return 1.0
    values.sort()
    bright, largest = values[max(0, len(values) - 1 - max(1, len(values) // 100))], values[-1]
    white = next((level for level in _USUAL[image.mode] if bright <= level), inf)
    if bright < _DARK * white:
        white = largest if largest <= 2 * bright else bright
    return float(white)


def _eight_bits(values: NDArray[np.float64], white: float, key: Any) -> Image.Image:
    """Scale levels; negative ones and NaN become black, and the transparent one white."""
    levels = np.nan_to_num(values, nan=0.0).clip(0, white) * (255 / white) + 0.5
    return Image.fromarray(np.where(values == key, 255, levels).astype(np.uint8))


def _transform(image: Image.Image, note: Note) -> Transform | None:
    """How an image becomes sRGB; None where it is, or does not say what it is."""
    mode = "L" if image.mode in ("1", "LA") or image.mode[:2] in _DEEP else image.mode
    if mode == "LAB":
        return "LAB", _transform_to_srgb(ImageCms.createProfile("LAB"), "LAB")
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        if len(profile) > _MOST_PROFILE:
            raise ValueError(f"it has {len(profile):,} bytes")
        takes, transform = _to_srgb(profile)
        # One of RGB fits whatever becomes RGB, also grey and indexed colours.
        if mode != takes and (takes != "RGB" or mode == "CMYK"):
            raise ValueError(f"it is for {takes}, and the image is {image.mode}")
    except (ImageCms.PyCMSError, OSError, LookupError, TypeError, ValueError) as error:
        note(f"its colour profile is ignored: {error}")
        return None
    return None if transform is None else (takes, transform)


def _transform_to_srgb(profile: Any, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")


@lru_cache(maxsize=4)
def _to_srgb(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """What mode a profile takes, and the transform; None where that would change nothing."""
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = opened.profile.xcolor_space.strip()
    if space not in _SPACES:
        raise ValueError(f"it is for {space}")
    mode = _SPACES[space]
    transform = _transform_to_srgb(opened, mode)
    steps = np.arange(256, dtype=np.uint8)
    probe = Image.fromarray(steps[None])
    if mode == "RGB":
        colours = np.meshgrid(*[steps[::17]] * 3)
        probe = Image.fromarray(np.stack(colours, axis=-1).reshape(1, -1, 3))
    found = np.asarray(_applied(probe, mode, transform), np.int16)
    alike = mode != "CMYK" and np.abs(found - np.asarray(probe.convert("RGB"))).max() <= _ROUNDING
    return mode, None if alike else transform


def _applied(tile: Image.Image, mode: str, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    found = Image.new("RGB", tile.size)
    transform.apply(tile if tile.mode == mode else tile.convert(mode), found)
    return found
