"""Label propagation and label spreading on a similarity graph, one iteration at a time.

Both move label distributions along the edges of the graph until they settle. They are generators,
so that whoever drives them can log, judge and stop at each step. They compute in the precision of
the seeds: single precision halves the memory and the time, and is enough for the tolerances of
every day (1e-4 and more).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee

from grocery.core.threads import blocks, thread_map
from grocery.semi_supervised.graph import row_normalised, symmetrically_normalised

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]

_ROWS = 2048  # points of one task; their labels stay in a core's cache


@dataclass(frozen=True)
class Spread:
    """Where the labels are after an iteration.

    Attributes
    ----------
    residual
        By how much the distributions moved in this iteration: the mean over all points of the
        absolute differences, summed over the classes.
    mass
        What a point has of each class, shape (n, c), in the order of the points that `order` says.
    order
        Shape (n,).
    """

    residual: float
    mass: Floats
    order: NDArray[np.int32]

    @cached_property
    def distributions(self) -> Floats:
        """Label distributions of all points (n, c); zeros for a point that no label has reached."""
        distributions = np.empty_like(self.mass)

        def task(rows: slice) -> None:
            mass = self.mass[rows]
            distributions[self.order[rows]] = mass * _scale(mass)

        with thread_map() as in_threads:
            in_threads(task, blocks(len(self.mass), _ROWS))
        return distributions


def label_propagation(
    graph: sparse.csr_matrix, seeds: Floats, *, max_iter: int, tol: float
) -> Iterator[Spread]:
    """Propagate with the known labels clamped.

    Zhu & Ghahramani, "Learning from labeled and unlabeled data with label propagation" (2002).

    Parameters
    ----------
    graph
        Symmetric weights, shape (n, n).
    seeds
        One-hot known labels, shape (n, c); rows of zeros where unknown.
    max_iter, tol
        Stop after `max_iter` iterations or when a point moves by less than `tol` on average.
    """
    order = _nearby(graph)
    seeds = seeds[order]
    known = seeds.sum(axis=1) > 0

    def clamp(rows: slice, moved: Floats) -> Floats:
        moved *= _scale(moved)
        moved[known[rows]] = seeds[rows][known[rows]]
        return moved

    yield from _walk(row_normalised(graph), order, seeds, clamp, max_iter=max_iter, tol=tol)


def label_spreading(
    graph: sparse.csr_matrix, seeds: Floats, *, alpha: float, max_iter: int, tol: float
) -> Iterator[Spread]:
    """Spread with the known labels pulling back by 1 - alpha.

    Zhou et al., "Learning with local and global consistency" (NIPS 2003). Arguments are those of
    `label_propagation`; `alpha`, more than 0 and less than 1, is the share of a label that comes
    from the neighbours.
    """
    order = _nearby(graph)
    # The distributions do not depend on the unit of mass, but far from every seed there is so
    # little of it that single precision would round it to zero.
    seeds = seeds[order]
    seeds *= seeds.dtype.type(2.0**60)
    known = seeds.sum(axis=1) > 0
    pull = seeds.dtype.type(1 - alpha)

    def pull_back(rows: slice, moved: Floats) -> Floats:
        moved[known[rows]] += pull * seeds[rows][known[rows]]
        return moved

    transition = symmetrically_normalised(graph)
    transition.data *= transition.dtype.type(alpha)
    yield from _walk(transition, order, seeds, pull_back, max_iter=max_iter, tol=tol)


def certainty(distributions: Floats) -> Doubles:
    """One minus the normalised entropy of each row (n, c): 1 for one-hot, 0 for uniform or zero."""
    classes = distributions.shape[1]
    logs = np.log(distributions, out=np.zeros_like(distributions), where=distributions > 0)
    certain = 1 + (distributions * logs).sum(axis=1) / np.log(max(classes, 2))
    reached = distributions.sum(axis=1) > 0
    return np.where(reached, np.clip(certain, 0, 1), 0).astype(np.float64, copy=False)


def _nearby(graph: sparse.csr_matrix) -> NDArray[np.int32]:
    """An order of the points (n,) that has neighbours stand near each other.

    What a product with the graph reads is then mostly in the cache: three times faster. (Cuthill &
    McKee, "Reducing the bandwidth of sparse symmetric matrices", ACM National Conference 1969.)
    """
    order: NDArray[np.int32] = reverse_cuthill_mckee(graph, symmetric_mode=True)
    return order


def _walk(
    transition: sparse.csr_matrix,
    order: NDArray[np.int32],
    mass: Floats,
    hold: Callable[[slice, Floats], Floats],
    *,
    max_iter: int,
    tol: float,
) -> Iterator[Spread]:
    """Multiply by `transition` (n, n) again and again, starting with `mass` (n, c).

    `mass` is in the order of the points that `order` says, and so is what `hold` gets: the product
    for some rows, which it corrects by what is known of them.
    """
    parts = _row_blocks(transition[order][:, order].astype(mass.dtype, copy=False))
    scale = _scale(mass)

    def task(part: tuple[slice, sparse.csr_matrix]) -> float:
        rows, transition = part
        before = mass[rows] * scale[rows]
        moved = hold(rows, transition @ mass)
        following[rows] = moved
        scale[rows] = _scale(moved)
        moved *= scale[rows]
        moved -= before
        # Row by row first: single precision sums few numbers well.
        return float(np.abs(moved, out=moved).sum(axis=1).sum(dtype=np.float64))

    with thread_map() as in_threads:
        for _ in range(max_iter):
            following = np.empty_like(mass)
            residual = sum(in_threads(task, parts)) / len(order)
            mass = following
            yield Spread(residual, mass, order)
            if residual < tol:
                return


def _row_blocks(matrix: sparse.csr_matrix) -> list[tuple[slice, sparse.csr_matrix]]:
    """Cut a matrix into blocks of rows that share its memory."""
    parts = []
    for rows in blocks(matrix.shape[0], _ROWS):
        starts = matrix.indptr[rows.start : rows.stop + 1]
        entries = slice(starts[0], starts[-1])
        content = (matrix.data[entries], matrix.indices[entries], starts - starts[0])
        shape = (rows.stop - rows.start, matrix.shape[1])
        parts.append((rows, sparse.csr_matrix(content, shape)))
    return parts


def _scale(mass: Floats) -> Floats:
    """What makes each row of mass (n, c) a distribution, shape (n, 1); 0 for a row without mass.

    So little that it has no normal number counts as nothing: its digits are gone.
    """
    sums = mass.sum(axis=1, keepdims=True)
    enough = sums >= np.finfo(sums.dtype).tiny
    scale: Floats = np.divide(1, sums, out=np.zeros_like(sums), where=enough)
    return scale
