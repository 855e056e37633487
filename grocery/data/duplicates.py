"""Images that are in a dataset more than once: exact copies, and near duplicates.

Near duplicates show the same photograph, re-encoded, resized or slightly retouched. They are found
by a perceptual hash, a string of 128 hex digits (64 bytes):

====== =========================================================================================
bytes  content
====== =========================================================================================
0-7    is the luminance of an 8 x 8 grid's cell higher than that of the cell to its right?
8-15   ... than that of the cell below it? (both: Krawetz's difference hash, row by row)
16-63  mean red, green and blue of the cells of a 4 x 4 grid, row by row
====== =========================================================================================

Two images are near duplicates when few of the first 128 bits differ *and* no mean colour differs by
more than `COLOUR_TOLERANCE`. The bits see edges and no colour: a red and a green apple in the same
place agree in all of them, and so do any two plain images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grocery.core.errors import DataError
from grocery.data.splits import PROTECTION
from grocery.images.raw import RawImage

BITS = 128
# Largest difference of a mean colour, in levels of 256.
COLOUR_TOLERANCE = 16
# Neighbouring cells whose luminances differ by no more count as equal, so that noise in a plain
# area sets no bits.
EDGE_LEVELS = 1

_BYTES = 64


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


def near_duplicate_groups(hashes: Sequence[str], *, max_bits: int) -> list[list[int]]:
    """Group images by near duplication, carried on from neighbour to neighbour.

    The search is exact. Hashes that differ in at most `max_bits` bits agree wholly in at least one
    of ``max_bits + 1`` bands, so only images that share a band are compared.

    Parameters
    ----------
    hashes
        Perceptual hashes of n images.
    max_bits
        Most bits, of the 128, in which near duplicates differ.

    Returns
    -------
    list of list of int
        Groups of two or more positions in `hashes`, each ascending, in order of their first.
    """
    table, members = np.unique(_table(hashes), axis=0, return_inverse=True)
    bits = np.unpackbits(table[:, : BITS // 8], axis=1)
    parent = np.arange(len(table))
    for band in np.array_split(np.arange(BITS), max_bits + 1):
        order, end = _windows(table, np.packbits(bits[:, band], axis=1))
        _connect(table, order, end, parent, max_bits)
    root = _root(parent, members.reshape(-1))
    order = np.argsort(root, kind="stable")
    starts = np.flatnonzero(np.diff(root[order], prepend=-1))
    groups = [group.tolist() for group in np.split(order, starts[1:]) if len(group) > 1]
    return sorted(groups)


def _precedence(image: RawImage) -> tuple[int, bool, str]:
    return PROTECTION[image.split or "train"], image.label is None, image.path


def _table(hashes: Sequence[str]) -> NDArray[np.uint8]:
    """Hashes as bytes, shape (n, 64)."""
    try:
        flat = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
        return flat.reshape(len(hashes), _BYTES)
    except ValueError as error:
        raise DataError(f"a perceptual hash is not {2 * _BYTES} hex digits") from error


def _windows(
    table: NDArray[np.uint8], band: NDArray[np.uint8]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Order images so that those to compare are close together.

    They are sorted by band, and by brightness within equal bands. The i-th is to be compared with
    those after it before the ``end[i]``-th: the others have another band, or are too bright to
    agree in colour.

    Returns
    -------
    order, end
        Positions in `table`, and where each one's window ends; shape (n,).
    """
    colours = table[:, BITS // 8 :]
    brightness = colours.sum(axis=1, dtype=np.int64)
    reach = COLOUR_TOLERANCE * colours.shape[1]
    bucket = np.unique(band, axis=0, return_inverse=True)[1].reshape(-1)
    key = bucket * (255 * colours.shape[1] + reach + 1) + brightness
    order = np.argsort(key, kind="stable")
    return order, np.searchsorted(key[order], key[order] + reach, side="right")


def _connect(
    table: NDArray[np.uint8],
    order: NDArray[np.intp],
    end: NDArray[np.intp],
    parent: NDArray[np.intp],
    max_bits: int,
) -> None:
    """Unite, in `parent`, the near duplicates among the images that share a window.

    The k-th step compares every image with the k-th after it. So a bucket of many plain images
    needs no more memory than any other. Images whose whole window is one group already are let go
    (looked for at steps 1, 2, 4, 8 ...), so it seldom needs much time either.
    """
    first = np.arange(len(order))
    step = 0
    while len(first):
        step += 1
        if step & (step - 1) == 0:
            root = _root(parent, order)
            changes = np.append(np.flatnonzero(np.diff(root)) + 1, len(root))
            run_end = changes[np.searchsorted(changes, first, side="right")]
            first = first[run_end < end[first]]
        first = first[first + step < end[first]]
        apart = first[root[first] != root[first + step]]
        pairs = np.stack([order[apart], order[apart + step]])
        for left, right in _near(table, pairs, max_bits).T.tolist():
            low, high = sorted((_find(parent, left), _find(parent, right)))
            parent[high] = low


def _near(table: NDArray[np.uint8], pairs: NDArray[np.intp], max_bits: int) -> NDArray[np.intp]:
    """Keep the pairs, of shape (2, m), that are near duplicates."""
    left, right = table[pairs]
    split = BITS // 8
    differing = np.bitwise_count(left[:, :split] ^ right[:, :split]).sum(axis=1)
    colours = np.abs(left[:, split:].astype(np.int16) - right[:, split:])
    near = (differing <= max_bits) & (colours.max(axis=1, initial=0) <= COLOUR_TOLERANCE)
    return pairs[:, near]


def _find(parent: NDArray[np.intp], item: int) -> int:
    """Root of one item (union-find with path halving)."""
    while parent[item] != item:
        parent[item] = parent[parent[item]]
        item = int(parent[item])
    return item


def _root(parent: NDArray[np.intp], items: NDArray[np.intp]) -> NDArray[np.intp]:
    """Roots of many items at once."""
    root = parent[items]
    while not np.array_equal(parent[root], root):
        root = parent[root]
    return root
