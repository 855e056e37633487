"""The one preprocessing: what the pipeline, the model and whoever serves it do to a raw image.

Its settings travel with the images that were prepared by them, from the shards into the encoder and
the release, so that a model never sees an image that was prepared otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from PIL import Image

from grocery.core import bounds
from grocery.core.errors import DataError
from grocery.images.decoding import canonical, decode, upright_rgb


@dataclass(frozen=True)
class Preprocessing:
    """How a raw image becomes a canonical one.

    Images are reduced where their longest side has more than `image_size` pixels, and refused
    before they are decoded where they have more than `max_pixels` in all. What is out of the bounds
    that params.yaml has for it is a `ValueError`.
    """

    image_size: int
    jpeg_quality: int
    max_pixels: int

    def __post_init__(self) -> None:
        bounds.IMAGE_SIZE.check("image_size", self.image_size)
        bounds.JPEG_QUALITY.check("jpeg_quality", self.jpeg_quality)
        bounds.MAX_PIXELS.check("max_pixels", self.max_pixels)

    @classmethod
    def of(cls, settings: Any, whose: str) -> Self:
        """Take over the settings that `whose` carries, a mapping that may have other keys too.

        Raises
        ------
        DataError
            When one is missing or out of bounds.
        """
        try:
            return cls(**{name: settings[name] for name in cls.__dataclass_fields__})
        except (LookupError, TypeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise DataError(f"{whose} does not say how its images were prepared: {why}") from None

    def prepare(self, raw: bytes | Image.Image) -> bytes:
        """Make the contents of a file, or an image that Pillow opened or made, a canonical JPEG.

        Raises
        ------
        UnreadableImage
            When it cannot be decoded; see `grocery.images.decoding`.
        """
        upright = (
            decode(raw, max_pixels=self.max_pixels) if isinstance(raw, bytes) else upright_rgb(raw)
        )
        return canonical(upright, size=self.image_size, quality=self.jpeg_quality)

    def gives_the_same_as(self, other: Preprocessing) -> bool:
        """Whether both give the same image; `max_pixels` only decides which files are refused."""
        return self == replace(other, max_pixels=self.max_pixels)
