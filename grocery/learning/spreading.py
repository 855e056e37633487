"""Label propagation and label spreading on a similarity graph, one iteration at a time.

Both move label distributions along the edges of the graph until they settle. They are generators,
so that whoever drives them can log, judge and stop at each step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from grocery.learning.graph import row_normalised, symmetrically_normalised

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Spread:
    """Label distributions (n, c) after an iteration, and by how much they moved a point."""

    distributions: Doubles
    residual: float


def label_propagation(
    graph: sparse.csr_matrix, seeds: Doubles, *, max_iter: int, tol: float
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
    known = seeds.sum(axis=1) > 0
    transition = row_normalised(graph)
    current = seeds
    for _ in range(max_iter):
        following = _distributions(transition @ current)
        following[known] = seeds[known]
        step = _step(current, following)
        yield step
        if step.residual < tol:
            return
        current = following


def label_spreading(
    graph: sparse.csr_matrix, seeds: Doubles, *, alpha: float, max_iter: int, tol: float
) -> Iterator[Spread]:
    """Spread with the known labels pulling back by 1 - alpha.

    Zhou et al., "Learning with local and global consistency" (NIPS 2003). Arguments are those of
    `label_propagation`; `alpha`, more than 0 and less than 1, is the share of a label that comes
    from the neighbours.
    """
    transition = symmetrically_normalised(graph)
    mass = seeds
    current = _distributions(mass)
    for _ in range(max_iter):
        mass = alpha * (transition @ mass) + (1 - alpha) * seeds
        following = _distributions(mass)
        step = _step(current, following)
        yield step
        if step.residual < tol:
            return
        current = following


def certainty(distributions: Doubles) -> Doubles:
    """One minus the normalised entropy of each row (n, c): 1 for one-hot, 0 for uniform or zero."""
    classes = distributions.shape[1]
    logs = np.log(distributions, out=np.zeros_like(distributions), where=distributions > 0)
    certain = 1 + (distributions * logs).sum(axis=1) / np.log(max(classes, 2))
    reached = distributions.sum(axis=1) > 0
    return np.where(reached, np.clip(certain, 0, 1), 0)


def _distributions(mass: Doubles) -> Doubles:
    sums = mass.sum(axis=1, keepdims=True)
    distributions: Doubles = np.divide(mass, sums, out=np.zeros_like(mass), where=sums > 0)
    return distributions


def _step(current: Doubles, following: Doubles) -> Spread:
    return Spread(following, float(np.abs(following - current).sum() / len(current)))
