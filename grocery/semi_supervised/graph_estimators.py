"""Label propagation and label spreading as estimators: the graph labels, the head predicts."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Generator, Iterator
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions

from grocery.classifier.dataset import UNLABELED
from grocery.classifier.fit_head import fit_head
from grocery.core.linear import unit_length
from grocery.semi_supervised.estimators import (
    Floats,
    Integers,
    SemiSupervisedClassifier,
    Step,
)
from grocery.semi_supervised.graph import (
    Affinity,
    neighbour_weights,
    row_normalised,
    similarity_graph,
)
from grocery.semi_supervised.spreading import Spread, certainty, label_propagation, label_spreading


class GraphClassifier(SemiSupervisedClassifier):
    """Base of the two: build the similarity graph, walk on it, and fit the head on the result.

    The head learns the known labels with weight 1, and of every other point the most probable
    class with the certainty of its distribution as weight; it predicts new points better than
    their neighbours' distributions do.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **SemiSupervisedClassifier._parameter_constraints,
        "affinity": [StrOptions({"cosine", "rbf", "uniform"})],
        "weight_power": [Interval(Real, 0, None, closed="neither")],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "neighbor_search": [StrOptions({"auto", "exact", "approximate"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
    }

    affinity: str
    weight_power: float
    gamma: float
    n_neighbors: int
    neighbor_search: str
    max_iter: int
    tol: float
    label_distributions_: Floats

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Label the unlabelled points on the graph, then fit the head on all.

        Parameters and errors are those of `SemiSupervisedClassifier.fit`, and:

        Raises
        ------
        DataError
            When no two points are similar, so that there is no graph.

        Warns
        -----
        ConvergenceWarning
            When `max_iter` is reached before the labels move by less than `tol`.
        """
        residual = np.inf
        for step in self.iter_fit(X, y):
            residual = step.residual
        if residual >= self.tol:
            warnings.warn(
                f"max_iter={self.max_iter} was reached without convergence",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    @abstractmethod
    def _walk(self, graph: sparse.csr_matrix, seeds: Floats) -> Iterator[Spread]:
        """Move the one-hot known labels (n, c) along the graph (n, n)."""

    def _steps(
        self, points: Floats, known: Integers, watched: Floats
    ) -> Generator[Step, None, Integers]:
        if self.n_neighbors >= len(points):
            raise ValueError(
                f"n_neighbors is {self.n_neighbors}, but there are only {len(points)} samples; "
                f"at most {len(points) - 1} is allowed"
            )
        graph, to_watched = self._graphs(points, watched)
        labelled = known != UNLABELED
        seeds = np.zeros((len(known), len(self.classes_)), points.dtype)
        seeds[labelled, known[labelled]] = 1
        for iteration, spread in enumerate(self._walk(graph, seeds), 1):
            self.n_iter_ = iteration
            reached = spread.distributions.sum(axis=1) > 0
            transduced = np.where(reached, spread.distributions.argmax(axis=1), UNLABELED)
            labels = np.where(labelled, known, transduced)
            weights = np.where(labelled, 1.0, certainty(spread.distributions))
            yield Step(labels, weights, spread.residual, to_watched @ spread.distributions)
        self.label_distributions_ = spread.distributions
        self.head_ = fit_head(
            points,
            labels,
            classes=len(self.classes_),
            C=self.C,
            weights=weights,
            standardize=self.standardize,
        )
        return transduced

    def _graphs(
        self, points: Floats, watched: Floats
    ) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """The similarity graph (n, n), and the share each point has in a watched one (v, n)."""
        affinity = Affinity(self.affinity, weight_power=self.weight_power, gamma=self.gamma)
        if self.affinity == "cosine":
            points, watched = unit_length(points), unit_length(watched)
        options: dict[str, Any] = {
            "n_neighbors": self.n_neighbors,
            "affinity": affinity,
            "search": self.neighbor_search,
        }
        graph = similarity_graph(points, **options)
        return graph, row_normalised(neighbour_weights(watched, points, **options))


class LabelPropagation(GraphClassifier):
    """Propagate labels over the similarity graph, with the known ones clamped.

    Zhu & Ghahramani, "Learning from labeled and unlabeled data with label propagation" (2002). At
    convergence a distribution is the weighted mean of its neighbours' (the harmonic solution).

    Parameters
    ----------
    affinity : {"cosine", "rbf", "uniform"}, default="cosine"
        Weight of an edge: cosine similarity to the power `weight_power`, where similarities below
        zero weigh nothing; ``exp(-gamma * squared distance)``; or 1.
    weight_power : float > 0, default=3.0
        For ``affinity="cosine"``.
    gamma : float >= 0, default=5.0
        For ``affinity="rbf"``; in units of one over a squared distance.
    n_neighbors : int >= 1, default=10
        Neighbours of a point, itself not counted; fewer than there are points. Two points are
        joined when either is a neighbour of the other.
    neighbor_search : {"auto", "exact", "approximate"}, default="auto"
        How neighbours are found; "auto" is exact as long as that is affordable.
    max_iter : int >= 1, default=1000
        Most iterations.
    tol : float >= 0, default=1e-3
        Converged when the label distributions change by less than this, summed over the classes
        and averaged over the points.
    C : float > 0, default=10.0
        Inverse of the head's L2 regularisation.
    standardize : bool, default=True
        Whether the head scales all features to the same variance, which helps when there are many
        points, labelled or not.

    Attributes
    ----------
    label_distributions_ : ndarray of shape (n, c)
        The graph's class distribution of each training point; zeros where no label arrived.
    transduction_ : ndarray of shape (n,)
        The graph's most probable class; -1 where no label arrived.
    head_, classes_, n_iter_, n_features_in_, feature_names_in_
        As for `SemiSupervisedClassifier`.

    Notes
    -----
    In scikit-learn's terms: "rbf" with all points as neighbours is ``kernel="rbf"``, and has the
    same fixed point. "uniform" resembles ``kernel="knn"``, but that counts a point among its own
    neighbours and does not make the graph symmetric; the fixed points agree where neighbours are
    mutual and `n_neighbors` is one less. There, `tol` is a sum over the points; and prediction is
    by neighbours' distributions, here by the head.
    """

    def __init__(
        self,
        *,
        affinity: str = "cosine",
        weight_power: float = 3.0,
        gamma: float = 5.0,
        n_neighbors: int = 10,
        neighbor_search: str = "auto",
        max_iter: int = 1000,
        tol: float = 1e-3,
        C: float = 10.0,
        standardize: bool = True,
    ) -> None:
        self.affinity = affinity
        self.weight_power = weight_power
        self.gamma = gamma
        self.n_neighbors = n_neighbors
        self.neighbor_search = neighbor_search
        self.max_iter = max_iter
        self.tol = tol
        self.C = C
        self.standardize = standardize

    def _walk(self, graph: sparse.csr_matrix, seeds: Floats) -> Iterator[Spread]:
        return label_propagation(graph, seeds, max_iter=self.max_iter, tol=self.tol)


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
    max_iter : int >= 1, default=100
        Most iterations.
    affinity, weight_power, gamma, n_neighbors, neighbor_search, tol, C, standardize
        As for `LabelPropagation`.

    Attributes
    ----------
    label_distributions_, transduction_, head_, classes_, n_iter_, n_features_in_
        As for `LabelPropagation`. `transduction_` may contradict a known label; the head learns
        the known one.

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

    def __init__(
        self,
        *,
        affinity: str = "cosine",
        weight_power: float = 3.0,
        gamma: float = 5.0,
        n_neighbors: int = 10,
        neighbor_search: str = "auto",
        alpha: float = 0.95,
        class_balance: bool = True,
        max_iter: int = 100,
        tol: float = 1e-3,
        C: float = 10.0,
        standardize: bool = True,
    ) -> None:
        self.affinity = affinity
        self.weight_power = weight_power
        self.gamma = gamma
        self.n_neighbors = n_neighbors
        self.neighbor_search = neighbor_search
        self.alpha = alpha
        self.class_balance = class_balance
        self.max_iter = max_iter
        self.tol = tol
        self.C = C
        self.standardize = standardize

    def _walk(self, graph: sparse.csr_matrix, seeds: Floats) -> Iterator[Spread]:
        if self.class_balance:
            seeds = seeds / np.maximum(seeds.sum(axis=0), 1)  # a class may lack labels
        return label_spreading(graph, seeds, alpha=self.alpha, max_iter=self.max_iter, tol=self.tol)
