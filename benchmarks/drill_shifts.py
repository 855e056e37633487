"""Shifts of photographs that no release is tried out under: what the drill draws its batches with.

As in `grocery.reference.shifts`, each takes an RGB image and gives one.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from grocery.core.draws import generator_of
from grocery.reference.shifts import Shift

Generator = np.random.Generator


def gamma(image: Image.Image, power: float, generator: Generator) -> Image.Image:
    """Another curve of the camera: levels, as shares of the largest, to this power."""
    return image.point([round(255 * (level / 255) ** power) for level in range(256)] * 3)


def turned(image: Image.Image, degrees: float, generator: Generator) -> Image.Image:
    """A camera held askew, to either side; grey corners."""
    if degrees == 90:
        return image.transpose(Image.Transpose.ROTATE_90)
    side = 1 if generator.random() < 0.5 else -1
    return image.rotate(side * degrees, Image.Resampling.BICUBIC, fillcolor=(128, 128, 128))


def border(image: Image.Image, share: float, generator: Generator) -> Image.Image:
    """Too far away: black on each side, this share of it."""
    width, height = image.size
    inner = (max(1, round(width * (1 - 2 * share))), max(1, round(height * (1 - 2 * share))))
    framed = Image.new("RGB", image.size)
    framed.paste(
        image.resize(inner, Image.Resampling.BICUBIC), (round(width * share), round(height * share))
    )
    return framed


def motion(image: Image.Image, length: float, generator: Generator) -> Image.Image:
    """A camera that moved sideways by so many pixels."""
    steps = int(length)
    values = np.pad(np.asarray(image, np.float64), ((0, 0), (steps // 2,) * 2, (0, 0)), "edge")
    sums = np.cumsum(np.concatenate([np.zeros_like(values[:, :1]), values], axis=1), axis=1)
    moved = (sums[:, steps:] - sums[:, :-steps]) / steps
    return Image.fromarray(moved.round().clip(0, 255).astype(np.uint8))


def haze(image: Image.Image, share: float, generator: Generator) -> Image.Image:
    """A dirty lens: this share of light grey over all."""
    return Image.blend(image, Image.new("RGB", image.size, (225, 225, 230)), share)


def shadow(image: Image.Image, depth: float, generator: Generator) -> Image.Image:
    """Half of the image, from any side, loses this share of its light."""
    values = np.asarray(image, np.float64)
    angle = generator.random() * 2 * np.pi
    across = np.linspace(-1, 1, values.shape[1])[None] * np.cos(angle)
    down = np.linspace(-1, 1, values.shape[0])[:, None] * np.sin(angle)
    light = 1 - depth / (1 + np.exp(-8 * (across + down)))
    return Image.fromarray((values * light[..., None]).round().astype(np.uint8))


def finger(image: Image.Image, share: float, generator: Generator) -> Image.Image:
    """Something in front of the lens, of this share of the area."""
    width, height = (max(1, int(side * share**0.5)) for side in image.size)
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    covered = image.copy()
    covered.paste((198, 150, 125), (left, top, left + width, top + height))
    return covered


def coarse(image: Image.Image, side: float, generator: Generator) -> Image.Image:
    """A camera of fewer pixels: so many on the longest side, enlarged again."""
    factor = side / max(image.size)
    small = image.resize(
        [max(1, round(length * factor)) for length in image.size], Image.Resampling.BOX
    )
    return small.resize(image.size, Image.Resampling.BILINEAR)


def dust(image: Image.Image, share: float, generator: Generator) -> Image.Image:
    """This share of the pixels is black or white."""
    values, drawn = np.array(image), generator.random((image.height, image.width))
    values[drawn < share / 2] = 0
    values[drawn > 1 - share / 2] = 255
    return Image.fromarray(values)


# Name, and strengths, the mildest first.
SHIFTS: Mapping[str, tuple[Shift, tuple[float, ...]]] = {
    "gamma": (gamma, (0.7, 0.5, 1.4, 2.0)),
    "turned": (turned, (10, 30, 90)),
    "border": (border, (0.1, 0.25)),
    "motion": (motion, (3, 9, 25)),
    "haze": (haze, (0.1, 0.25, 0.55)),
    "shadow": (shadow, (0.25, 0.5, 0.85)),
    "finger": (finger, (0.03, 0.08, 0.3)),
    "coarse": (coarse, (160, 96, 40)),
    "dust": (dust, (0.002, 0.01, 0.06)),
}


def copied(image: Image.Image, place: int, number: int) -> Image.Image:
    """One more photograph of the same thing: a pixel or two aside, a little lighter or darker."""
    generator = generator_of("drill copy", number, place)
    left, top, right, below = (int(cut) for cut in generator.integers(0, 3, 4))
    part = image.crop((left, top, image.width - right, image.height - below))
    light = 1 + 0.02 * generator.normal()
    return part.resize(image.size, Image.Resampling.BICUBIC).point(
        [min(255, round(light * level)) for level in range(256)] * 3
    )
