"""Self-training: the head labels what it is sure of, and learns from that."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import Interval

from grocery.classifier.dataset import UNLABELED
from grocery.semi_supervised.base import Floats, Integers, SemiSupervisedClassifier, Step, Steps


@dataclass(kw_only=True, eq=False, repr=False)
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
    max_iter : int >= 0 or None, default=1000
        Most iterations; 0 learns from the known labels alone, None goes on until nothing is
        adopted.
    C : float > 0, default=10.0
    standardize : bool, default=False
        As for `SemiSupervisedClassifier`.

    Attributes
    ----------
    labeled_iter_ : ndarray of shape (n,)
        The iteration in which a point got its label: 0 for a known label, -1 for none.
    termination_condition_ : {"max_iter", "no_change", "all_labeled"}
        Why the iterations ended.
    converged_ : bool
        False when that is "max_iter", unless `max_iter` is 0, which asks for no iteration.
    head_, classes_, transduction_, n_iter_, n_features_in_, feature_names_in_
        As for `SemiSupervisedClassifier`; `transduction_` are the labels the head was fitted on.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **SemiSupervisedClassifier._parameter_constraints,
        "threshold": [Interval(Real, 0, 1, closed="left")],
        "max_iter": [Interval(Integral, 0, None, closed="left"), None],
    }

    threshold: float = 0.75

    labeled_iter_: Integers = field(init=False)
    termination_condition_: str = field(init=False)

    def _steps(self, points: Floats, known: Integers, watched: Floats) -> Steps:
        labels = known
        self.labeled_iter_ = np.where(known == UNLABELED, -1, 0)
        adopted = np.array([], dtype=np.int64)
        # The first step is the head of the known labels, before any iteration.
        for iteration in count():
            self.n_iter_ = iteration
            if iteration == 0 or len(adopted):
                used = labels != UNLABELED
                self.head_ = self._head(points[used], labels[used])
            residual = len(adopted) / len(labels)
            yield Step(labels, used.astype(float), residual, self.head_.predict_proba(watched))
            unlabelled = np.flatnonzero(labels == UNLABELED)
            if iteration and not len(adopted):
                self.termination_condition_ = "no_change"
                break
            if not len(unlabelled):
                self.termination_condition_ = "all_labeled"
                break
            if iteration == self.max_iter:
                self.termination_condition_ = "max_iter"
                break
            probabilities = self.head_.predict_proba(points[unlabelled])
            sure = probabilities.max(axis=1) > self.threshold
            adopted = unlabelled[sure]
            labels = labels.copy()
            labels[adopted] = probabilities.argmax(axis=1)[sure]
            self.labeled_iter_[adopted] = iteration + 1
        self.converged_ = self.termination_condition_ != "max_iter" or self.max_iter == 0
        return labels
