"""What a photograph is like, whatever it shows: a few numbers an image.

They see what happens to a camera (dirt, another lens, another light) before any prediction changes,
and they can be put in words. All are of the canonical image, which is what the model sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from grocery.images.decoding import pixels

NAMES = (
    "brightness",
    "contrast",
    "sharpness",
    "noise",
    "red-green balance",
    "blue-yellow balance",
    "aspect",
    "size",
)

PHOTOGRAPHIC = 6  # so many, the first, are of light and colour; the others are of the format

_LEVEL = np.float32(1 / 256)  # the least response, so that a plain image has a logarithm

Floats = NDArray[np.float32]


def image_statistics(jpegs: Sequence[bytes]) -> Floats:
    """Statistics of canonical JPEG images, shape (n, `len(NAMES)`); see `statistics_of`."""
    rows = [statistics_of(pixels(jpeg)) for jpeg in jpegs]
    return np.stack(rows) if rows else np.empty((0, len(NAMES)), np.float32)


def statistics_of(image: NDArray[np.uint8]) -> Floats:
    """Statistics of one image of shape (h, w, 3), in the order of `NAMES`.

    =================== ========================================================================
    brightness          mean luma, 0 to 1
    contrast            standard deviation of luma
    sharpness           mean absolute difference of neighbouring pixels' luma, log2 of levels
    noise               mean absolute response to a mask that neither planes nor straight edges
                        excite, log2 of levels (Immerkær, "Fast noise variance estimation", 1996)
    red-green balance   mean of red less green, -1 to 1
    blue-yellow balance mean of blue less the mean of red and green, -1 to 1
    aspect              log2 of width over height
    size                log2 of the longest side in pixels
    =================== ========================================================================
    """
    height, width = image.shape[:2]
    channels = image.astype(np.float32)
    red, green, blue = (float(channels[..., index].mean()) / 255 for index in range(3))
    luma = channels @ np.array([0.299, 0.587, 0.114], np.float32)
    across, down = np.abs(np.diff(luma, axis=1)), np.abs(np.diff(luma, axis=0))
    return np.array(
        [
            luma.mean() / 255,
            luma.std() / 255,
            np.log2(_mean(across) + _mean(down) + _LEVEL),
            np.log2(_mean(np.abs(_mask(luma))) + _LEVEL),
            red - green,
            blue - (red + green) / 2,
            np.log2(width / height),
            np.log2(max(width, height)),
        ],
        np.float32,
    )


def _mask(luma: Floats) -> Floats:
    """Second difference across of the second difference down."""
    response: Floats = np.diff(np.diff(luma, n=2, axis=0), n=2, axis=1)
    return response


def _mean(values: Floats) -> np.float32:
    """Mean, 0 of nothing: an image may be one pixel wide."""
    return values.mean() if values.size else np.float32(0)
