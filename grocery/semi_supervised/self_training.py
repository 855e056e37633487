"""Self-training: the head labels what it is sure of, and learns from that."""

from __future__ import annotations

from collections.abc import Generator
from itertools import count
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from grocery.classifier.dataset import UNLABELED
from grocery.classifier.fit_head import fit_head
from grocery.classifier.head import Head
from grocery.semi_supervised.estimators import (
    Doubles,
    Floats,
    Integers,
    SemiSupervisedClassifier,
    Step,
)


class SelfTraining(SemiSupervisedClassifier):
    """Fit the head, adopt its confident predictions as labels, and fit it again.

    Yarowsky, "Unsupervised word sense disambiguation rivaling supervised methods" (ACL 1995). It
    is scikit-learn's ``SelfTrainingClassifier(LogisticRegression(C=C))``: an adopted label is kept,
    and weighs as much as a known one.

    A head that was fitted on few labels is not calibrated. The smaller `C` and the more classes,
    the less confident it is, right as it may be: usual thresholds then adopt hardly anything.

    Parameters
    ----------
    threshold : float in [0, 1), default=0.75
        A prediction more confident than this is adopted as a label.
    max_iter : int >= 0 or None, default=30
        Most iterations; 0 learns from the known labels alone, None goes on until nothing is
        adopted.
    C : float > 0, default=10.0
        Inverse of the head's L2 regularisation.
    standardize : bool, default=False
        Whether the head scales all features to the same variance.

    Attributes
    ----------
    labeled_iter_ : ndarray of shape (n,)
        The iteration in which a point got its label: 0 for a known label, -1 for none.
    termination_condition_ : {"max_iter", "no_change", "all_labeled"}
        Why the iterations ended.
    head_, classes_, transduction_, n_iter_, n_features_in_, feature_names_in_
        As for `SemiSupervisedClassifier`; `transduction_` are the labels the head was fitted on.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **SemiSupervisedClassifier._parameter_constraints,
        "threshold": [Interval(Real, 0, 1, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left"), None],
    }

    labeled_iter_: Integers
    termination_condition_: str

    def __init__(
        self,
        *,
        threshold: float = 0.75,
        max_iter: int | None = 30,
        C: float = 10.0,
        standardize: bool = False,
    ) -> None:
        self.threshold = threshold
        self.max_iter = max_iter
        self.C = C
        self.standardize = standardize

    def _steps(
        self, points: Floats, known: Integers, watched: Floats
    ) -> Generator[Step, None, Integers]:
        # The first step is the head of the known labels, before any iteration.
        labels = known.copy()
        self.n_iter_ = 0
        self.labeled_iter_ = np.where(known == UNLABELED, -1, 0)
        self.head_ = self._fit(points, labels)
        yield self._step(labels, 0, watched)
        for iteration in count(1):
            unlabelled = np.flatnonzero(labels == UNLABELED)
            if not len(unlabelled):
                self.termination_condition_ = "all_labeled"
                break
            if self.max_iter is not None and iteration > self.max_iter:
                self.termination_condition_ = "max_iter"
                break
            self.n_iter_ = iteration
            probabilities = self.head_.predict_proba(points[unlabelled])
            adopted = probabilities.max(axis=1) > self.threshold
            labels = labels.copy()
            labels[unlabelled[adopted]] = probabilities.argmax(axis=1)[adopted]
            self.labeled_iter_[unlabelled[adopted]] = iteration
            if adopted.any():
                self.head_ = self._fit(points, labels)
            yield self._step(labels, int(adopted.sum()), watched)
            if not adopted.any():
                self.termination_condition_ = "no_change"
                break
        return labels

    def _fit(self, points: Floats, labels: Integers) -> Head:
        used = labels != UNLABELED
        return fit_head(
            points[used],
            labels[used],
            classes=len(self.classes_),
            C=self.C,
            standardize=self.standardize,
        )

    def _step(self, labels: Integers, adopted: int, watched: Floats) -> Step:
        weights: Doubles = (labels != UNLABELED).astype(np.float64)
        return Step(labels, weights, adopted / len(labels), self.head_.predict_proba(watched))
