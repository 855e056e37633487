"""What can happen to photographs: the shifts that a model is tried out under.

Each takes an RGB image and gives one, and depends on the image and a seed alone. They are applied
to canonical images, so a radius in pixels is of at most `image_size` of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

Shift = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def light(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Another light: all levels are multiplied by this share of it."""
    return image.point([min(255, round(share * level)) for level in range(256)] * 3)


def colour_cast(image: Image.Image, gain: float, generator: np.random.Generator) -> Image.Image:
    """Another white balance: red is multiplied by the gain and blue divided by it."""
    gains = (gain, 1.0, 1 / gain)
    return image.point([min(255, round(g * level)) for g in gains for level in range(256)])


def blur(image: Image.Image, radius: float, generator: np.random.Generator) -> Image.Image:
    """Out of focus: a Gaussian of this standard deviation in pixels."""
    return image.filter(ImageFilter.GaussianBlur(radius))


def compression(image: Image.Image, quality: float, generator: np.random.Generator) -> Image.Image:
    """JPEG of this quality, chroma halved, as messengers send it."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(quality), subsampling=2)
    return Image.open(stream).convert("RGB")


def crop_and_zoom(image: Image.Image, side: float, generator: np.random.Generator) -> Image.Image:
    """Too close: a part of the image, this share of either side, enlarged to its size."""
    width, height = (max(1, round(side * length)) for length in image.size)
    left = int(generator.integers(image.width - width + 1))
    top = int(generator.integers(image.height - height + 1))
    part = image.crop((left, top, left + width, top + height))
    return part.resize(image.size, Image.Resampling.BICUBIC)


def camera_noise(image: Image.Image, levels: float, generator: np.random.Generator) -> Image.Image:
    """A cheaper sensor: independent normal noise of this standard deviation, in levels of 256."""
    values = np.asarray(image, np.float64)
    noisy = values + generator.normal(0, levels, values.shape)
    return Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))


def low_contrast(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Levels keep this share of their distance from the image's mean brightness."""
    mean = float(np.asarray(image.convert("L")).mean())
    levels = [min(255, max(0, round(mean + share * (level - mean)))) for level in range(256)]
    return image.point(levels * 3)


def pale_colours(image: Image.Image, share: float, generator: np.random.Generator) -> Image.Image:
    """Colours keep this share of their distance from grey."""
    return ImageEnhance.Color(image).enhance(share)


# Name, and the strengths that a model is tried out at. A light above 1 is over-exposed.
TRIED: Mapping[str, tuple[Shift, tuple[float, ...]]] = {
    "light": (light, (0.6, 0.35, 1.4, 1.8)),
    "contrast": (low_contrast, (0.5, 0.3)),
    "colour cast": (colour_cast, (0.67, 0.8, 1.25, 1.5)),
    "pale colours": (pale_colours, (0.5,)),
    "blur": (blur, (2.0, 4.0)),
    "compression": (compression, (20, 5)),
    "crop and zoom": (crop_and_zoom, (0.65, 0.45)),
    "camera noise": (camera_noise, (15, 30)),
}
