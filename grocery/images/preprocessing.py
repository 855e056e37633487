"""The one preprocessing: what the pipeline, the model and whoever serves it do to a raw image.

Its settings travel with the images that were prepared by them, from the shards into the encoder and
the release, so that a model never sees an image that was prepared otherwise.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

from PIL import Image

from grocery.core import bounds
from grocery.core.errors import DataError, NotInstalled, UnreadableImage, memory_for
from grocery.images.colours import Note
from grocery.images.decoding import canonical, decode, upright_rgb
from grocery.images.raw import RawImage

SRGB = "srgb"


@dataclass(frozen=True)
class Preprocessing:
    """How a raw image becomes a canonical one.

    Images are reduced where their longest side has more than `image_size` pixels, and refused
    before they are decoded where they have more than `max_pixels` in all, and unread where their
    file has more than `max_file_bytes`. What is out of the bounds that params.yaml has for it is a
    `ValueError`.

    With `colours` ``srgb`` an embedded colour profile is applied. A release that was made before
    there was a choice does not say it, and goes on as it was trained: profiles are ignored.
    """

    image_size: int
    jpeg_quality: int
    max_pixels: int
    max_file_bytes: int | None = None
    colours: str | None = None

    def __post_init__(self) -> None:
        bounds.IMAGE_SIZE.check("image_size", self.image_size)
        bounds.JPEG_QUALITY.check("jpeg_quality", self.jpeg_quality)
        bounds.MAX_PIXELS.check("max_pixels", self.max_pixels)
        if self.max_file_bytes is not None:
            bounds.MAX_FILE_BYTES.check("max_file_bytes", self.max_file_bytes)
        if self.colours not in (None, SRGB):
            raise ValueError(f"colours is {self.colours!r:.80}, but it should be {SRGB} or absent")

    @classmethod
    def of(cls, settings: Any, whose: str) -> Self:
        """Take over the settings that `whose` carries, a mapping that may have other keys too.

        Raises
        ------
        DataError
            When one is missing or out of bounds.
        """
        try:
            needed = {name: settings[name] for name in ("image_size", "jpeg_quality", "max_pixels")}
            return cls(**needed, **{name: settings.get(name) for name in _LATER})
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            why = f"{error} is missing" if isinstance(error, KeyError) else error
            raise DataError(f"{whose} does not say how its images were prepared: {why}") from None

    def settings(self) -> dict[str, Any]:
        """What travels with images and with a model: what is said, and nothing of what is not."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def file_limit(self) -> int:
        """Most bytes of a file that is read."""
        return self.max_file_bytes or bounds.FILE_BYTES

    def prepare(self, raw: bytes | Image.Image, note: Note = lambda _: None) -> bytes:
        """Make the contents of a file, or an image that Pillow opened or made, a canonical JPEG.

        `note` is called with a sentence on what is wrong with a file that is read all the same.

        Raises
        ------
        UnreadableImage
            When it cannot be decoded; see `grocery.images.decoding`.
        """
        profiles = self.colours == SRGB
        if isinstance(raw, bytes):
            upright = decode(raw, max_pixels=self.max_pixels, profiles=profiles, note=note)
        else:
            upright = upright_rgb(raw, profiles=profiles, note=note)
        return canonical(upright, size=self.image_size, quality=self.jpeg_quality)

    def gives_the_same_as(self, other: Preprocessing) -> bool:
        """Whether both give the same image of what has no profile, as prepared images have none.

        `max_pixels` and `max_file_bytes` only decide which files are refused.
        """
        return other.image_size == self.image_size and other.jpeg_quality == self.jpeg_quality


class Prepared(NamedTuple):
    """What became of a raw image."""

    image_id: str  # SHA-256 (hex) of its file, see `grocery.images.raw.identify`
    jpeg: bytes | None  # the canonical image
    reason: str | None  # why there is none
    notes: list[str]  # what is wrong with a file that is read all the same


def prepare(image: RawImage, how: Preprocessing) -> Prepared:
    """Read and prepare a raw image; what is wrong with its file is a fact, and no error.

    Raises
    ------
    NotInstalled, OutOfMemory
        Names the image: something optional would decode it, or memory does not suffice.
    """
    notes: list[str] = []
    image_id = None
    try:
        with memory_for(image.path):
            data = image.read(how.file_limit)
            image_id = hashlib.sha256(data).hexdigest()
            return Prepared(image_id, how.prepare(data, notes.append), None, notes)
    except NotInstalled as error:
        raise NotInstalled(f"{image.path} is {error}, or leave it out") from None
    except UnreadableImage as error:
        return Prepared(image_id or image.identify()[0], None, str(error), notes)


_LATER = ("max_file_bytes", "colours")  # settings that older releases do not have
