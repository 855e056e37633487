"""Fitting the head: multinomial logistic regression, then temperature scaling."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression

from grocery.errors import DataError
from grocery.learning.head import Head, softmax

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_MAX_ITERATIONS = 500


def fit_head(
    features: Floats,
    labels: Integers,
    *,
    classes: int,
    C: float,
    weights: NDArray[np.float64] | None = None,
) -> Head:
    """Fit the head on features (n, d), class numbers (n,) and optional sample weights (n,).

    Every class must occur: a head that has never seen a class cannot predict it.

    Raises
    ------
    DataError
        When a class has no image with a positive weight.
    """
    used = np.ones(len(labels), bool) if weights is None else weights > 0
    present = np.unique(labels[used])
    if len(present) < classes:
        missing = sorted(set(range(classes)) - set(present.tolist()))
        raise DataError(f"{len(missing)} of {classes} classes have no labelled training image")
    estimator = LogisticRegression(C=C, max_iter=_MAX_ITERATIONS)
    estimator.fit(
        features[used].astype(np.float64),
        labels[used],
        sample_weight=None if weights is None else weights[used],
    )
    coefficients, intercept = estimator.coef_, estimator.intercept_
    if classes == 2:  # scikit-learn keeps one row for two classes
        coefficients, intercept = (np.concatenate([-x, x]) / 2 for x in (coefficients, intercept))
    return Head(coefficients.astype(np.float32), intercept.astype(np.float32))


def calibrate(head: Head, features: Floats, labels: Integers) -> Head:
    """Choose the temperature that makes held-out labels most likely.

    Guo et al., "On calibration of modern neural networks" (ICML 2017). Accuracy does not change.

    Parameters
    ----------
    features, labels
        Images (n, d) and classes (n,) that the head was not fitted on; with none, the temperature
        stays as it is.
    """
    if not len(labels):
        return head
    logits = head.logits(features).astype(np.float64)
    rows = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits / np.exp(log_temperature))
        return float(-np.log(np.maximum(probabilities[rows, labels], 1e-12)).mean())

    found = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded")
    return head.with_temperature(float(np.exp(found.x)))
