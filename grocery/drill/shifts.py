"""What can happen to photographs, at three strengths: the shifts of the drill.

Each takes an RGB image and gives one, and depends on the image and a seed alone. They are applied
to canonical images, so a radius in pixels is of at most `image_size` of them.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageFilter

from grocery.core.draws import generator_of

Shift = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def dim_light(image: Image.Image, light: float, generator: np.random.Generator) -> Image.Image:
    """A share of the light: all levels are multiplied by it."""
    return image.point([round(light * level) for level in range(256)] * 3)


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


# Name, what the strength is, and three strengths, the mildest first.
SHIFTS: Mapping[str, tuple[Shift, str, tuple[float, float, float]]] = {
    "dim light": (dim_light, "{:g} of the light", (0.75, 0.5, 0.3)),
    "colour cast": (colour_cast, "gain {:g}", (1.1, 1.25, 1.5)),
    "blur": (blur, "{:g} px", (1.0, 2.0, 4.0)),
    "compression": (compression, "JPEG quality {:g}", (40, 15, 5)),
    "crop and zoom": (crop_and_zoom, "{:g} of a side", (0.85, 0.65, 0.45)),
    "camera noise": (camera_noise, "{:g} levels", (6, 15, 30)),
}


def shifted(image: Image.Image, name: str, strength: float, image_id: str) -> Image.Image:
    """Apply a shift to one image; what is random in it follows from the image's id."""
    return SHIFTS[name][0](image, strength, generator_of(name, image_id))
