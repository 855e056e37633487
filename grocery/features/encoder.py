"""Encoders: an image in, a unit vector out.

An encoder is a descriptor (an image to a long raw vector) followed by PCA with whitening and
L2 normalisation. Using one needs numpy and Pillow only, and onnxruntime where the descriptor is an
ONNX backbone; `grocery.features.fit_encoder` fits one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from grocery.core.arrays import Arrays
from grocery.core.bounds import DIMENSIONS, Bounds
from grocery.core.errors import ModelError
from grocery.core.linear import unit_length
from grocery.features.backbone import Backbone
from grocery.features.colour import colour_descriptor
from grocery.features.fisher import FisherVector, Grid
from grocery.features.projection import Projection

KIND = "grocery-encoder"

RAW = Bounds(1, 1_000_000)  # entries of a raw vector

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]


class Descriptor(Protocol):
    """An image (h, w, 3) to a raw vector, and what to store to rebuild it."""

    def __call__(self, pixels: Pixels) -> Floats:
        """Describe one image."""

    def arrays(self) -> Arrays:
        """What was fitted."""


class ColourDescriptor:
    """The colour and edge histogram; it has nothing to fit."""

    def __call__(self, pixels: Pixels) -> Floats:
        """Describe one image."""
        return colour_descriptor(pixels)

    def arrays(self) -> Arrays:
        """Nothing was fitted."""
        return {}


@dataclass(frozen=True)
class Encoder:
    """A fitted encoder: a descriptor, and PCA of its raw vectors with whitening.

    `settings` say what the descriptor is and its fixed settings, as JSON.
    """

    settings: dict[str, Any]
    describe: Descriptor
    projection: Projection

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        """Encode images, each (h, w, 3), to unit vectors (n, d)."""
        return self.project(np.stack([self.describe(image) for image in images]))

    def project(self, raw: Floats) -> Floats:
        """Raw vectors (n, r) to unit vectors (n, d)."""
        return unit_length(self.projection.one_by_one(raw))

    @property
    def dimensions(self) -> int:
        """Entries of a vector."""
        return int(self.projection.components.shape[1])

    def arrays(self) -> Arrays:
        """Everything that was fitted, by name; the components in half precision."""
        fitted = self.projection.arrays("")
        return (
            fitted
            | {"components": fitted["components"].astype(np.float16)}
            | self.describe.arrays()
        )

    def save_backbone(self, folder: Path) -> None:
        """Copy to `folder` what is neither array nor setting: the backbone, if there is one."""
        if isinstance(self.describe, Backbone):
            self.describe.save(folder)

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: dict[str, Any], backbone: Path) -> Encoder:
        """Rebuild from what `arrays` and `settings` gave, and from the ONNX file if it has one.

        Raises
        ------
        ModelError
            When the encoder is of a kind that this version does not know, or the backbone is not
            the one that it was fitted with.
        """
        describe: Descriptor
        own: dict[str, Any] = {"encoder": settings["encoder"]}  # and nothing else that is on disk
        match own["encoder"]:
            case "fisher":
                own["grid"] = settings["grid"]
                describe = FisherVector.from_arrays(arrays, Grid(**own["grid"]))
            case "colour":
                describe = ColourDescriptor()
            case "onnx":
                own["backbone"] = settings["backbone"]
                describe = Backbone.from_settings(own["backbone"], backbone)
            case other:
                raise ModelError(
                    f"{backbone.parent} has the encoder {other!r:.80}; this version knows fisher, "
                    "colour and onnx"
                )
        projection = Projection.from_arrays(
            arrays, "", RAW, Bounds(1, DIMENSIONS.most), dtype=np.float16
        )
        return cls(own, describe, projection)
