"""Label propagation and label spreading: the similarity graph labels, the head predicts.

Both move label distributions along the edges of the graph until they settle. They compute in the
precision of the points: single precision halves the memory and the time, and is enough for the
tolerances of every day (1e-4 and more).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import reverse_cuthill_mckee
from sklearn.utils._param_validation import Interval

from grocery.classifier.dataset import UNLABELED
from grocery.core.threads import blocks, thread_map
from grocery.semi_supervised.base import Floats, Integers, SemiSupervisedClassifier, Step, Steps
from grocery.semi_supervised.graph import SimilarityGraph, row_normalised, symmetrically_normalised

# What a step multiplies by (n, n), what the walk starts with (n, c), and what corrects the mass
# that arrived at some points, in place: given it, which of them are known, and where they began.
Rules = tuple[sparse.csr_matrix, Floats, Callable[[Floats, NDArray[np.bool_], Floats], None]]

_ROWS = 2048  # points of one task; their labels stay in a core's cache


@dataclass(kw_only=True, eq=False, repr=False)
class GraphClassifier(SimilarityGraph, SemiSupervisedClassifier):
    """Base of the two: build the similarity graph, walk on it, and fit the head on the result.

    The head learns the known labels with weight 1, and of every other point the most probable
    class with the certainty of its distribution as weight; it predicts new points better than
    their neighbours' distributions do.

    Parameters
    ----------
    affinity, weight_power, gamma, n_neighbors, neighbor_search
        As for `SimilarityGraph`.
    max_iter : int >= 1, default=1000
        Most iterations.
    tol : float >= 0, default=1e-3
        Converged when the label distributions change by less than this, summed over the classes
        and averaged over the points.
    C : float > 0, default=10.0
    standardize : bool, default=True
        As for `SemiSupervisedClassifier`.

    Attributes
    ----------
    label_distributions_ : ndarray of shape (n, c)
        The graph's class distribution of each training point; zeros where no label arrived.
    transduction_ : ndarray of shape (n,)
        The graph's most probable class; -1 where no label arrived. It may contradict a known label
        where those may yield; the head learns the known one.
    head_, classes_, n_iter_, converged_, n_features_in_, feature_names_in_
        As for `SemiSupervisedClassifier`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **SemiSupervisedClassifier._parameter_constraints,
        **SimilarityGraph._parameter_constraints,
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    max_iter: int = 1000
    tol: float = 1e-3
    standardize: bool = True

    label_distributions_: Floats = field(init=False)

    @abstractmethod
    def _rules(self, graph: sparse.csr_matrix, seeds: Floats) -> Rules:
        """How the walk goes, from the arguments of `walk`."""

    def walk(self, graph: sparse.csr_matrix, seeds: Floats) -> Iterator[tuple[float, Floats]]:
        """Move known labels along a graph, until they settle or `max_iter` is reached.

        Parameters
        ----------
        graph
            Symmetric weights, shape (n, n).
        seeds
            One-hot known labels, shape (n, c); rows of zeros where unknown.

        Yields
        ------
        residual
            By how much the distributions moved in this iteration: the mean over all points of the
            absolute differences, summed over the classes.
        distributions
            Label distributions of all points (n, c); zeros for a point that no label has reached.
        """
        transition, seeds, hold = self._rules(graph, seeds)
        # In this order neighbours stand near each other, and what a product with the graph reads is
        # mostly in the cache: three times faster. (Cuthill & McKee, "Reducing the bandwidth of
        # sparse symmetric matrices", ACM National Conference 1969.)
        order = reverse_cuthill_mckee(graph, symmetric_mode=True)
        parts = _row_blocks(transition[order][:, order].astype(seeds.dtype, copy=False))
        mass = seeds = seeds[order]
        known = seeds.sum(axis=1) > 0
        scale = _scale(mass)

        def task(part: tuple[slice, sparse.csr_matrix]) -> float:
            rows, transition = part
            before = mass[rows] * scale[rows]
            moved = transition @ mass
            hold(moved, known[rows], seeds[rows])
            following[rows] = moved
            scale[rows] = _scale(moved)
            moved *= scale[rows]
            distributions[order[rows]] = moved
            moved -= before
            # Row by row first: single precision sums few numbers well.
            return float(np.abs(moved, out=moved).sum(axis=1).sum(dtype=np.float64))

        with thread_map() as in_threads:
            for _ in range(self.max_iter):
                following, distributions = np.empty_like(mass), np.empty_like(mass)
                residual = sum(in_threads(task, parts)) / len(order)
                mass = following
                yield residual, distributions
                if residual < self.tol:
                    return

    def _steps(self, points: Floats, known: Integers, watched: Floats) -> Steps:
        if self.n_neighbors >= len(points):
            raise ValueError(
                f"n_neighbors is {self.n_neighbors}, but there are only {len(points)} samples; "
                f"at most {len(points) - 1} is allowed"
            )
        graph = self.graph(points)
        to_watched = row_normalised(self.edges(watched, points))
        labelled = known != UNLABELED
        seeds = np.zeros((len(known), len(self.classes_)), points.dtype)
        seeds[labelled, known[labelled]] = 1
        for iteration, (residual, found) in enumerate(self.walk(graph, seeds), 1):
            self.n_iter_, self.converged_ = iteration, residual < self.tol
            transduced = np.where(found.sum(axis=1) > 0, found.argmax(axis=1), UNLABELED)
            labels = np.where(labelled, known, transduced)
            weights = np.where(labelled, 1.0, certainty(found))
            yield Step(labels, weights, residual, to_watched @ found)
        self.label_distributions_ = found
        self.head_ = self._head(points, labels, weights)
        return transduced


@dataclass(kw_only=True, eq=False, repr=False)
class LabelPropagation(GraphClassifier):
    """Propagate labels over the similarity graph, with the known ones clamped.

    Zhu & Ghahramani, "Learning from labeled and unlabeled data with label propagation" (2002). At
    convergence a distribution is the weighted mean of its neighbours' (the harmonic solution).
    Parameters and attributes are those of `GraphClassifier`.

    Notes
    -----
    In scikit-learn's terms: "rbf" with all points as neighbours is ``kernel="rbf"``, and has the
    same fixed point. "uniform" resembles ``kernel="knn"``, but that counts a point among its own
    neighbours and does not make the graph symmetric; the fixed points agree where neighbours are
    mutual and `n_neighbors` is one less. There, `tol` is a sum over the points; and prediction is
    by neighbours' distributions, here by the head.
    """

    def _rules(self, graph: sparse.csr_matrix, seeds: Floats) -> Rules:
        def clamp(moved: Floats, known: NDArray[np.bool_], seeds: Floats) -> None:
            moved *= _scale(moved)
            moved[known] = seeds[known]

        return row_normalised(graph), seeds, clamp


@dataclass(kw_only=True, eq=False, repr=False)
class LabelSpreading(GraphClassifier):
    """Spread labels over the similarity graph, where the known ones may yield to their neighbours.

    Zhou et al., "Learning with local and global consistency" (NIPS 2003).

    Parameters
    ----------
    alpha : float in (0, 1), default=0.95
        Share of a label that comes from the neighbours rather than from the start.
    class_balance : bool, default=True
        Every class starts with the same mass, however many of its labels are known; False, as in
        scikit-learn, gives every known label the same.

    The others, and the attributes, are those of `GraphClassifier`.

    Notes
    -----
    With ``class_balance=False`` the distributions are those of scikit-learn's `LabelSpreading`,
    under the conditions that `LabelPropagation` names.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **GraphClassifier._parameter_constraints,
        "alpha": [Interval(Real, 0, 1, closed="neither")],
        "class_balance": ["boolean"],
    }

    alpha: float = 0.95
    class_balance: bool = True

    def _rules(self, graph: sparse.csr_matrix, seeds: Floats) -> Rules:
        pull = seeds.dtype.type(1 - self.alpha)

        def pull_back(moved: Floats, known: NDArray[np.bool_], seeds: Floats) -> None:
            moved[known] += pull * seeds[known]

        transition = symmetrically_normalised(graph)
        transition.data *= transition.dtype.type(self.alpha)
        if self.class_balance:
            seeds = seeds / np.maximum(seeds.sum(axis=0), 1)  # a class may lack labels
        # The distributions do not depend on the unit of mass, but far from every seed there is so
        # little of it that single precision would round it to zero.
        return transition, seeds * seeds.dtype.type(2.0**60), pull_back


def certainty(distributions: Floats) -> NDArray[np.float64]:
    """One minus the normalised entropy of each row (n, c): 1 for one-hot, 0 for uniform or zero."""
    classes = distributions.shape[1]
    logs = np.log(distributions, out=np.zeros_like(distributions), where=distributions > 0)
    certain = 1 + (distributions * logs).sum(axis=1) / np.log(max(classes, 2))
    reached = distributions.sum(axis=1) > 0
    return np.where(reached, np.clip(certain, 0, 1), 0).astype(np.float64, copy=False)


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
