"""Images that are in a dataset more than once: exact copies, and the hash that shows near ones.

Near duplicates show the same photograph, re-encoded, resized or slightly retouched. They are found
by a perceptual hash, a string of 128 hex digits (64 bytes):

====== =========================================================================================
bytes  content
====== =========================================================================================
0-7    is the luminance of an 8 x 8 grid's cell higher than that of the cell to its right?
8-15   ... than that of the cell below it? (both: Krawetz's difference hash, row by row)
16-63  mean red, green and blue of the cells of a 4 x 4 grid, row by row
====== =========================================================================================

The bits see edges and no colour: a red and a green apple in the same place agree in all of them,
and so do any two plain images. `grocery.data.near_duplicates` says which hashes are near.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from grocery.data.splits import PROTECTION
from grocery.images.raw import RawImage

# Neighbouring cells whose luminances differ by no more count as equal, so that noise in a plain
# area sets no bits.
EDGE_LEVELS = 1


@dataclass(frozen=True)
class Copies:
    """All files of a dataset that have the same bytes.

    Attributes
    ----------
    image_id
        SHA-256 (hex) of the bytes.
    kept
        The one that stands for all of them.
    dropped
        The others, sorted by path.
    """

    image_id: str
    kept: RawImage
    dropped: tuple[RawImage, ...] = ()

    @property
    def files(self) -> tuple[RawImage, ...]:
        """All of them, the kept one first."""
        return (self.kept, *self.dropped)

    @property
    def labels(self) -> list[str]:
        """Their labels; more than one when they contradict each other."""
        return sorted({image.label for image in self.files if image.label is not None})


def exact_copies(images: Sequence[RawImage], image_ids: Sequence[str]) -> list[Copies]:
    """Group files by their bytes, and choose which of each group to keep.

    A copy in test is kept before one in val, and that before one in train, so that a dataset's own
    test set stays whole; then a labelled one, then the one with the smallest path.

    Parameters
    ----------
    images, image_ids
        The n files, and the SHA-256 (hex) of each.

    Returns
    -------
    list of Copies
        Sorted by the path of the kept file.
    """
    groups: dict[str, list[RawImage]] = defaultdict(list)
    for image, image_id in zip(images, image_ids, strict=True):
        groups[image_id].append(image)
    copies = []
    for image_id, files in groups.items():
        kept, *_ = ranked = sorted(files, key=_precedence)
        dropped = sorted(ranked[1:], key=lambda image: image.path)
        copies.append(Copies(image_id, kept, tuple(dropped)))
    return sorted(copies, key=lambda group: group.kept.path)


def perceptual_hash(image: Image.Image) -> str:
    """Hash an RGB image; see the module for the layout. Whole-number arithmetic only."""
    grey = image.convert("L")
    wide = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    high = np.asarray(grey.resize((8, 9), Image.Resampling.BOX), dtype=np.int16)
    right = wide[:, :-1] - wide[:, 1:] > EDGE_LEVELS
    below = high[:-1] - high[1:] > EDGE_LEVELS
    colours = np.asarray(image.resize((4, 4), Image.Resampling.BOX), dtype=np.uint8)
    return np.packbits(np.stack([right, below])).tobytes().hex() + colours.tobytes().hex()


def _precedence(image: RawImage) -> tuple[int, bool, str]:
    return PROTECTION[image.split or "train"], image.label is None, image.path
