"""What the semi-supervised estimators share: scikit-learn's conventions, and the head they end in.

An estimator first labels the points that have no label, step by step, and then fits the deployable
linear head on all of them. `fit` runs the steps; `iter_fit` hands them out, so that whoever drives
it can log each one.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from grocery.classifier.dataset import UNLABELED
from grocery.classifier.fit_head import fit_head
from grocery.classifier.head import Head

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """Where an algorithm stands after an iteration.

    Attributes
    ----------
    labels
        Class number of each training point (n,), known or adopted; `UNLABELED` where there is
        none. Class number i is ``classes_[i]``.
    weights
        How certain each label is (n,), from 0 to 1; known labels weigh 1.
    residual
        By how much the labels moved in this iteration, per point.
    validation
        Class scores (v, c) that the algorithm itself gives to the validation points.
    """

    labels: Integers
    weights: NDArray[np.float64]
    residual: float
    validation: Floats


Steps = Generator[Step, None, Integers]  # returns the transduced class numbers (n,)


@dataclass(kw_only=True, eq=False, repr=False)
class SemiSupervisedClassifier(ClassifierMixin, BaseEstimator, ABC):  # type: ignore[misc]
    """Base of the estimators; the fields of the data class are its parameters.

    Labels are those of :mod:`sklearn.semi_supervised`: any classes, and -1 where a point has none.
    The algorithms compute in the precision of the points, the head in single precision.

    Parameters
    ----------
    max_iter : int, default=1000
        Most iterations.
    C : float > 0, default=10.0
        Inverse of the head's L2 regularisation.
    standardize : bool
        Whether the head scales all features to the same variance, which helps when there are many
        points, labelled or not.

    Attributes
    ----------
    head_ : Head
        The deployable classifier, not calibrated.
    classes_ : ndarray of shape (c,)
        The classes, in the order of the columns of `predict_proba`.
    transduction_ : ndarray of shape (n,)
        The label of each training point; -1 where the algorithm gave none.
    n_iter_ : int
        Iterations that were run.
    converged_ : bool
        Whether the iterations came to their end; False when `max_iter` cut them off.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, where the training points had names that are all strings.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [Interval(Real, 0, None, closed="neither")],
        "standardize": ["boolean"],
    }

    max_iter: int | None = 1000
    C: float = 10.0
    standardize: bool = False

    head_: Head = field(init=False)
    classes_: NDArray[Any] = field(init=False)
    transduction_: NDArray[Any] = field(init=False)
    n_iter_: int = field(init=False)
    converged_: bool = field(init=False)

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Label the unlabelled points, then fit the head on all.

        Parameters
        ----------
        X
            Points, shape (n, d).
        y
            Their classes, shape (n,); -1 where a point has none. Classes that are strings need the
            dtype object, which can hold -1 beside them.

        Raises
        ------
        ValueError
            When a parameter or the data cannot be used: a value that is not finite, no label at
            all, only one class, or no more points than neighbours.
        DataError
            When no two points are similar, so that there is no graph.

        Warns
        -----
        ConvergenceWarning
            When `max_iter` was reached before the labels settled.
        """
        for _ in self.iter_fit(X, y):
            pass
        if not self.converged_:
            warnings.warn(
                f"max_iter={self.max_iter} was reached without convergence",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def iter_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        validation: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Iterator[Step]:
        """Do what `fit` does, one step at a time; the estimator is fitted after the last one.

        It warns of nothing: `converged_` says how it ended.

        Parameters
        ----------
        X, y
            As for `fit`.
        validation
            Points (v, d) that each step gives scores to; v may be 0.
        classes
            All classes, as in scikit-learn's ``partial_fit``; those that `y` lacks are never
            predicted. By default those of `y`.
        """
        self._validate_params()
        self.__dict__.pop("head_", None)  # of another fit: it is no longer this one's
        points, labels = validate_data(
            self, X, y, dtype=[np.float64, np.float32], ensure_min_samples=2
        )
        self.classes_, known = _class_numbers(labels, classes)
        watched = points[:0]
        if validation is not None:
            watched = validate_data(
                self, validation, dtype=points.dtype, reset=False, ensure_min_samples=0
            )
        return self._run(points, known, watched)

    def _run(self, points: Floats, known: Integers, watched: Floats) -> Iterator[Step]:
        numbers = yield from self._steps(points, known, watched)
        self.transduction_ = self.classes_[numbers]
        unlabelled = numbers == UNLABELED
        if unlabelled.any():  # else the classes may be of a type that has no -1
            self.transduction_[unlabelled] = UNLABELED

    @abstractmethod
    def _steps(self, points: Floats, known: Integers, watched: Floats) -> Steps:
        """Run the algorithm, and set `head_`, `n_iter_` and `converged_`."""

    def _head(
        self, points: Floats, labels: Integers, weights: NDArray[np.float64] | None = None
    ) -> Head:
        return fit_head(
            points,
            labels,
            classes=len(self.classes_),
            C=self.C,
            weights=weights,
            standardize=self.standardize,
        )

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float32]:
        """Class probabilities (n, c) of points (n, d), by the head."""
        check_is_fitted(self)
        points = validate_data(self, X, dtype=np.float32, reset=False)
        return self.head_.predict_proba(points)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class (n,) of points (n, d), by the head."""
        probabilities = self.predict_proba(X)
        predicted: NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return predicted

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "head_")


def _class_numbers(y: NDArray[Any], expected: ArrayLike | None) -> tuple[NDArray[Any], Integers]:
    """The classes, and the class number of each label (n,), `UNLABELED` for -1."""
    words = y.dtype.kind in "US"  # cannot hold -1, and numpy does not compare the two
    labelled = np.ones(len(y), bool) if words else y != UNLABELED
    if words and (y.astype(str) == str(UNLABELED)).any():
        raise ValueError(
            "y holds the string '-1'; where points have no label, classes that are strings need "
            "the dtype object, and -1 as a number"
        )
    if not labelled.any():
        raise ValueError("y holds no label: every value is -1; label some points of each class")
    if y.dtype.kind == "f":  # whole numbers and names are classes, however many there are
        check_classification_targets(y[labelled])
    classes, numbers = np.unique(y[labelled], return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y holds one class only, {classes[0]}; label points of at least two")
    if expected is not None:
        expected = np.unique(expected)
        if not np.isin(classes, expected).all():
            raise ValueError("y holds a class that is not among `classes`")
        numbers, classes = np.searchsorted(expected, classes)[numbers], expected
    known = np.full(len(y), UNLABELED, dtype=np.int64)
    known[labelled] = numbers
    return classes, known
