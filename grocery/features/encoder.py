"""Encoders: an image in, a unit vector out.

An encoder is a descriptor (an image to a long raw vector) followed by PCA with whitening and
L2 normalisation. Several, side by side, are one again: each gives a unit vector, and these are
weighted and concatenated. Using one needs numpy and Pillow only, and onnxruntime where a descriptor
is an ONNX backbone; `grocery.features.fit_encoder` fits one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from grocery.core.arrays import Arrays
from grocery.core.bounds import DIMENSIONS, WEIGHT, Bounds
from grocery.core.errors import ModelError
from grocery.core.linear import unit_length
from grocery.features.backbone import Backbone, backbone_name
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
class DescriptorsInARow:
    """Several descriptors as one: their raw vectors, one after the other."""

    parts: Sequence[Descriptor]

    def __call__(self, pixels: Pixels) -> Floats:
        """Describe one image."""
        return np.concatenate([describe(pixels) for describe in self.parts])

    def arrays(self) -> Arrays:
        """What was fitted, of each part with its number before the names."""
        return _numbered([describe.arrays() for describe in self.parts])


@dataclass(frozen=True)
class ProjectionsSideBySide:
    """The projections of such a row, each to a unit vector times the root of its weight.

    So the similarity of two images is the weighted mean of their similarities to each descriptor.
    The first entries of all come first, then the second ones: what keeps the leading entries of a
    vector (`grocery.reference`) keeps those of each part.
    """

    parts: Sequence[Projection | ProjectionsSideBySide]
    weights: Sequence[float]

    def one_by_one(self, raw: Floats) -> Floats:
        """Project raw vectors (n, r) to (n, d); a row's bytes do not depend on the other rows."""
        ends = np.cumsum([part.length for part in self.parts])
        cut = zip(self.parts, np.split(raw, ends[:-1], axis=1), self.weights, strict=True)
        sides = [
            unit_length(part.one_by_one(np.ascontiguousarray(own))) * np.float32(np.sqrt(weight))
            for part, own, weight in cut
        ]
        places = np.concatenate([np.arange(part.dimensions) for part in self.parts])
        # In C order, in which `unit_length` adds up a row alike whatever their number.
        return np.take(np.concatenate(sides, axis=1), np.argsort(places, kind="stable"), axis=1)

    @property
    def length(self) -> int:
        """Entries of a raw vector."""
        return sum(part.length for part in self.parts)

    @property
    def dimensions(self) -> int:
        """Entries of a vector."""
        return sum(part.dimensions for part in self.parts)

    def arrays(self, prefix: str) -> Arrays:
        """What was fitted, of each part with its number before the names."""
        return _numbered([part.arrays(prefix) for part in self.parts])


@dataclass(frozen=True)
class Encoder:
    """A fitted encoder: a descriptor, and PCA of its raw vectors with whitening.

    `settings` say what the descriptor is and its fixed settings, as JSON.
    """

    settings: dict[str, Any]
    describe: Descriptor
    projection: Projection | ProjectionsSideBySide

    def __call__(self, images: Sequence[Pixels]) -> Floats:
        """Encode images, each (h, w, 3), to unit vectors (n, d)."""
        return self.project(np.stack([self.describe(image) for image in images]))

    def project(self, raw: Floats) -> Floats:
        """Raw vectors (n, r) to unit vectors (n, d)."""
        return unit_length(self.projection.one_by_one(raw))

    @property
    def dimensions(self) -> int:
        """Entries of a vector."""
        return self.projection.dimensions

    @property
    def backbones(self) -> list[Backbone]:
        """The networks among its descriptors, in their order."""
        described = self.describe
        parts = described.parts if isinstance(described, DescriptorsInARow) else [described]
        return [part for part in parts if isinstance(part, Backbone)]

    def arrays(self) -> Arrays:
        """Everything that was fitted, by name; the components in half precision."""
        fitted = {
            name: array.astype(np.float16) if name.endswith("components") else array
            for name, array in self.projection.arrays("").items()
        }
        return fitted | self.describe.arrays()

    def save_backbones(self, folder: Path) -> None:
        """Copy to `folder` what is neither array nor setting: the networks, if there are any."""
        for place, network in enumerate(self.backbones):
            network.save(folder / backbone_name(place))

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: dict[str, Any], folder: Path) -> Encoder:
        """Rebuild from what `arrays` and `settings` gave, and from the networks in `folder`.

        Raises
        ------
        ModelError
            When the encoder is of a kind that this version does not know, or a network is not the
            one that it was fitted with.
        """
        if not isinstance(settings["encoder"], list):
            return _single(arrays, settings, folder / backbone_name(0))
        parts: list[Encoder] = []
        for number, own in enumerate(settings["encoder"]):
            mark = f"{number}_"
            theirs = {n.removeprefix(mark): a for n, a in arrays.items() if n.startswith(mark)}
            networks = sum(len(part.backbones) for part in parts)
            parts.append(_single(theirs, own, folder / backbone_name(networks)))
        return side_by_side(parts, [own["weight"] for own in settings["encoder"]])


def side_by_side(parts: Sequence[Encoder], weights: Sequence[float]) -> Encoder:
    """Several encoders as one.

    Raises
    ------
    ValueError
        When a weight is out of bounds, or they have too many dimensions together.
    """
    for weight in weights:
        WEIGHT.check("the weight of an encoder", weight)
    settings = [p.settings | {"weight": w} for p, w in zip(parts, weights, strict=True)]
    whole = ProjectionsSideBySide([part.projection for part in parts], weights)
    DIMENSIONS.check("the number of dimensions of all encoders together", whole.dimensions)
    return Encoder(
        {"encoder": settings}, DescriptorsInARow([part.describe for part in parts]), whole
    )


def _single(arrays: Arrays, settings: dict[str, Any], backbone: Path) -> Encoder:
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
    return Encoder(own, describe, projection)


def _numbered(parts: Sequence[Arrays]) -> Arrays:
    return {f"{n}_{name}": array for n, part in enumerate(parts) for name, array in part.items()}
