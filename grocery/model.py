"""The deployable model: images in, calibrated class probabilities out.

A model is arrays and JSON (see `grocery.arrays`): loading one executes nothing. Prediction needs
numpy, Pillow and safetensors only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grocery.arrays import Arrays, arrays_digest, load_arrays, save_arrays
from grocery.data.images import UnreadableImage, canonical, decode, pixels, upright_rgb
from grocery.errors import DataError, ModelError
from grocery.features.encoder import Encoder
from grocery.learning.head import Head

KIND = "grocery-model"
_BATCH = 64  # images whose raw vectors are held at once

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What the model says of one image: the class, its probability, and the coarse class if any."""

    label: str
    confidence: float
    coarse: str | None = None


@dataclass(frozen=True)
class Canonical:
    """How a raw image becomes the canonical image that the model was trained on."""

    image_size: int
    jpeg_quality: int
    max_pixels: int


@dataclass(frozen=True)
class Model:
    """Encoder and head, with the names of the classes.

    Attributes
    ----------
    encoder, head
        Canonical pixels to features (n, d); features to probabilities (n, c).
    classes
        Names of the c classes, in the order of the probabilities.
    coarse
        Coarse class of each class; empty where the data has none.
    canonical
        How raw images are prepared.
    """

    encoder: Encoder
    head: Head
    classes: list[str]
    coarse: dict[str, str]
    canonical: Canonical

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the model's arrays: the model's identity."""
        return arrays_digest(self._arrays())

    def predict_proba(self, jpegs: Sequence[bytes]) -> Floats:
        """Class probabilities (n, c) of canonical JPEG images, as they lie in shards."""
        if not len(jpegs):
            return np.empty((0, len(self.classes)), np.float32)
        features = np.concatenate(
            [
                self.encoder([pixels(jpeg) for jpeg in jpegs[start : start + _BATCH]])
                for start in range(0, len(jpegs), _BATCH)
            ]
        )
        return self.head.predict_proba(features)

    def predict(
        self, images: Iterable[str | os.PathLike[str] | bytes | Image.Image]
    ) -> list[Prediction]:
        """Predict raw images: paths, file contents or Pillow images.

        Each is prepared as the pipeline prepares it, so a prediction on a raw test file is the
        pipeline's.

        Raises
        ------
        DataError
            When an image cannot be read; it says which (its path, or ``image N``, the first
            being 1) and why.
        """
        jpegs = [self._canonical(image, number) for number, image in enumerate(images, start=1)]
        probabilities = self.predict_proba(jpegs)
        best = probabilities.argmax(axis=1)
        return [
            Prediction(
                self.classes[index],
                float(row[index]),
                self.coarse.get(self.classes[index]),
            )
            for index, row in zip(best, probabilities, strict=True)
        ]

    def _canonical(self, image: str | os.PathLike[str] | bytes | Image.Image, number: int) -> bytes:
        how = self.canonical
        name = f"image {number}"
        try:
            if isinstance(image, str | os.PathLike):
                name = os.fspath(image)
                image = Path(image).read_bytes()
            if isinstance(image, bytes):
                upright = decode(image, max_pixels=how.max_pixels)
            else:
                upright = upright_rgb(image)
        except UnreadableImage as error:
            raise DataError(f"{name} cannot be read as an image: {error}") from error
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from error
        return canonical(upright, size=how.image_size, quality=how.jpeg_quality)

    def save(self, folder: Path) -> str:
        """Write the model to a folder; return the digest of its arrays."""
        return save_arrays(
            folder,
            KIND,
            self._arrays(),
            {
                "encoder": self.encoder.settings,
                "classes": self.classes,
                "coarse": self.coarse,
                "canonical": vars(self.canonical),
            },
        )

    def _arrays(self) -> Arrays:
        return self.encoder.arrays() | self.head.arrays("head_")


def load_model(path: str | os.PathLike[str]) -> Model:
    """Load a model from its folder.

    Raises
    ------
    ModelError
        When the folder holds no model, or a damaged one.
    """
    folder = Path(path)
    arrays, description = load_arrays(folder, KIND)
    try:
        return _model(arrays, description)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ModelError(f"{folder} is not a whole {KIND}: {error}") from None


def _model(arrays: Arrays, description: dict[str, Any]) -> Model:
    model = Model(
        Encoder.from_arrays(arrays, description["encoder"]),
        Head.from_arrays(arrays, "head_"),
        description["classes"],
        description["coarse"],
        Canonical(**description["canonical"]),
    )
    expected = (len(model.classes), model.encoder.dimensions)
    if model.head.coefficients.shape != expected:
        raise ValueError(f"the head is {model.head.coefficients.shape}, expected {expected}")
    return model
