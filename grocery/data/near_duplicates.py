"""Which images are near duplicates, which of them stay together, and which would leak.

Two images are near duplicates when few of the 128 bits of their perceptual hashes differ *and* no
mean colour differs by more than `COLOUR_TOLERANCE`, see `grocery.data.duplicates`.

Being near is not transitive: of three images the first may be a near duplicate of the second, and
the second of the third, and the ends have little in common. Photographs of products on plain
ground are chains of this kind that hold nearly all of a dataset. So what stays together is a group
in which every two images are near duplicates; and of near duplicates that end in two splits, one is
dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.spatial import cKDTree

from grocery.core.draws import draw
from grocery.core.errors import DataError
from grocery.data.splits import PROTECTION

BITS = 128
# Largest difference of a mean colour, in levels of 256.
COLOUR_TOLERANCE = 16

_BYTES = 64
_SPLIT = BITS // 8  # where the bits end and the colours begin
_FAR = 1 << 20  # more than any distance of near duplicates
_CELLS = 8  # colours that candidates are found by
STEPS = 256  # rows on either side that are looked at

Rows = NDArray[np.intp]


class NearDuplicates:
    """The near duplicates among n images.

    All answers are exact, and depend on the hashes alone. Images with the same hash are one row of
    a table, so that many blank images are no more work than one. Of most photographs there is no
    near duplicate; those of which there may be one are found first, see `_search`.

    Parameters
    ----------
    hashes
        Perceptual hashes of the n images.
    max_bits
        Most bits, of the 128, in which near duplicates differ.

    Raises
    ------
    DataError
        When a hash is of another kind.
    """

    def __init__(self, hashes: Sequence[str], *, max_bits: int) -> None:
        table, row = np.unique(_table(hashes), axis=0, return_inverse=True)
        self._row = row.reshape(-1)  # of each image
        self._bits = np.ascontiguousarray(table[:, :_SPLIT]).view(np.uint64)
        self._colours = table[:, _SPLIT:]
        self._max_bits = max_bits
        colours = self._colours.astype(np.float64)
        # The cells that the ones before explain least: neighbouring cells say nearly the same.
        centre = colours.mean(axis=0) if hashes else 0
        cells = qr(colours - centre, mode="r", pivoting=True)[1]
        self._points = colours[:, cells[:_CELLS]]
        self._may_be = np.zeros(len(table), bool)  # near another one
        for band in np.array_split(np.unpackbits(table[:, :_SPLIT], axis=1), max_bits + 1, axis=1):
            self._search(np.packbits(band, axis=1))

    def groups(self) -> list[list[int]]:
        """Group images so that within a group every two are near duplicates (complete linkage).

        One image leads a group, and the others join it, the nearest first, as far as they are near
        duplicates of all that have; then another one leads. In which order images lead is drawn, so
        that a new image changes the groups around it only. Near duplicates may be in two groups.

        Returns
        -------
        list of list of int
            Groups of two or more positions, each ascending, in order of their first.
        """
        led_by, rows = np.arange(len(self._bits)), np.flatnonzero(self._may_be)
        free = _Pool(self._points, rows)
        for leader in sorted(rows.tolist(), key=self._draw):
            if free.holds(leader):
                group = self._joined(leader, free.around(leader))
                led_by[group] = leader
                free.take(group)
        led_by = led_by[self._row]
        order = np.argsort(led_by, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(led_by[order])) + 1)
        return sorted(group.tolist() for group in groups if len(group) > 1)

    def leaks(self, splits: Sequence[str]) -> dict[int, int]:
        """Find the images to drop so that no near duplicates lie in two splits.

        The test images stay; validation images that repeat none of them; and training images that
        repeat none of all these.

        Parameters
        ----------
        splits
            Split of each of the n images.

        Returns
        -------
        dict
            Position of an image to drop, to the position of the one it repeats. Empty exactly when
            no two near duplicates lie in two splits.
        """
        if not splits:
            return {}
        rank = np.array([PROTECTION[split] for split in splits], np.intp)
        order = np.argsort(rank, kind="stable")
        # The most protected image of each row speaks for it, unless it repeats another's.
        first = order[np.unique(self._row[order], return_index=True)[1]]
        repeated, ranks = first.copy(), rank[first]
        below = _Pool(self._points, np.flatnonzero(self._may_be & (ranks > ranks.min())))
        for row in np.lexsort((first, ranks)).tolist():
            if self._may_be[row] and repeated[row] == first[row] and ranks[row] < ranks.max():
                near = below.around(row)
                near = near[ranks[near] > ranks[row]]
                near = near[self._distances(near, row) < _FAR]
                repeated[near] = first[row]
                below.take(near)
        repeated = repeated[self._row]
        return {int(i): int(repeated[i]) for i in np.flatnonzero(rank > rank[repeated])}

    def _search(self, band: NDArray[np.uint8]) -> None:
        """Note, in `_may_be`, rows that are near another one with the same band (m, b) of bits.

        Hashes that differ in at most `max_bits` bits agree wholly in at least one of
        ``max_bits + 1`` bands. Rows are sorted by band, and by a colour within equal bands, so that
        those to compare stand together. Each looks at the next one on either side, and the next,
        until it has found one; one that has found none among many is noted too, and left to the
        tree. So a bucket of many plain images takes neither time nor memory.
        """
        bucket = np.unique(band, axis=0, return_inverse=True)[1].reshape(-1)
        key = bucket * 1024.0 + self._points[:, 0]  # no colours are so far apart
        order = np.argsort(key, kind="stable")
        begin = np.searchsorted(key[order], key[order] - COLOUR_TOLERANCE)
        end = np.searchsorted(key[order], key[order] + COLOUR_TOLERANCE, side="right")
        places = np.arange(len(order))
        for step in range(1, STEPS):
            places = places[~self._may_be[order[places]]]
            places = places[(begin[places] <= places - step) | (places + step < end[places])]
            if not len(places):
                break
            for others in (places + step, places - step):
                inside = (begin[places] <= others) & (others < end[places])
                rows, other = order[places[inside]], order[others[inside]]
                near = self._distances(rows, other) < _FAR
                self._may_be[rows[near]] = self._may_be[other[near]] = True
        self._may_be[order[places]] = True

    def _draw(self, row: int) -> bytes:
        return draw("group", self._bits[row].tobytes().hex(), self._colours[row].tobytes().hex())

    def _joined(self, leader: int, rows: Rows) -> Rows:
        """The group of a leader, from rows that may join and the leader itself."""
        distances = self._distances(rows, leader)
        nearest = np.argsort(distances, kind="stable")
        rows = rows[nearest[: np.count_nonzero(distances < _FAR)]]
        joined: list[int] = []
        while len(rows):
            if len(joined) & (len(joined) - 1) == 0:  # at 0, 1, 2, 4, 8 ...
                # Often so plain that not all pairs need be compared.
                bits = self._bits[rows]
                varying = np.bitwise_or.reduce(bits) ^ np.bitwise_and.reduce(bits)
                same_colours = np.ptp(self._colours[rows], axis=0).max() <= COLOUR_TOLERANCE
                if same_colours and np.bitwise_count(varying).sum() <= self._max_bits:
                    break
            joined.append(rows[0])
            if same_colours:
                rows = rows[self._differing(rows, rows[0]) <= self._max_bits][1:]
            else:
                rows = rows[self._distances(rows, rows[0]) < _FAR][1:]
        return np.array([*joined, *rows])

    def _differing(self, rows: Rows, row: Any) -> NDArray[np.uint8]:
        """Number of bits in which rows differ; the arguments are those of `_distances`."""
        differing = np.bitwise_count(self._bits[rows] ^ self._bits[row])
        total: NDArray[np.uint8] = differing[:, 0] + differing[:, 1]
        return total

    def _distances(self, rows: Rows, row: Any) -> Rows:
        """Distances, by bits and then by colour; `_FAR` for what is no near duplicate.

        Of rows (m,) from one other row, or each from its own, (m,).
        """
        differing = self._differing(rows, row)
        distances = np.full(len(rows), _FAR)
        near = np.flatnonzero(differing <= self._max_bits)
        ours = self._colours[rows[near]]
        its = self._colours[row if np.ndim(row) == 0 else row[near]]
        colours = (np.maximum(ours, its) - np.minimum(ours, its)).max(axis=1, initial=0)
        close = colours <= COLOUR_TOLERANCE
        distances[near[close]] = differing[near[close]] * np.intp(256) + colours[close]
        return distances


class _Pool:
    """Rows that can be found by their points, shape (m, k), until they are taken."""

    def __init__(self, points: NDArray[np.float64], rows: Rows) -> None:
        self._points = points
        self._held = np.zeros(len(points), bool)
        self._held[rows] = True
        self._build()

    def _build(self) -> None:
        self._rows = np.flatnonzero(self._held)
        self._count = len(self._rows)
        self._tree = cKDTree(self._points[self._rows])

    def holds(self, row: int) -> bool:
        """Whether a row is there."""
        return bool(self._held[row])

    def around(self, row: int) -> Rows:
        """Those that differ from a row by no more than the tolerance in any coordinate."""
        found = self._tree.query_ball_point(self._points[row], COLOUR_TOLERANCE, p=np.inf)
        rows = self._rows[np.sort(np.array(found, np.intp))]
        return rows[self._held[rows]]

    def take(self, rows: Rows) -> None:
        """Take rows away; the tree is built again when half of it is gone."""
        self._held[rows] = False
        self._count -= len(rows)
        if self._count < len(self._rows) / 2:
            self._build()


def _table(hashes: Sequence[str]) -> NDArray[np.uint8]:
    """Hashes as bytes, shape (n, 64)."""
    try:
        flat = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
        return flat.reshape(len(hashes), _BYTES)
    except ValueError as error:
        raise DataError(f"a perceptual hash is not {2 * _BYTES} hex digits") from error
