"""Fitting the head: multinomial logistic regression, then calibration."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from grocery.classifier.head import Head
from grocery.core.bounds import SMOOTHING, TEMPERATURE
from grocery.core.errors import DataError
from grocery.core.intervals import clopper_pearson

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_MAX_ITERATIONS = 500
_ROUNDING = 1e-6  # a feature that varies by a smaller share of its size is constant
_LOG_TEMPERATURE = (np.log(TEMPERATURE.least), np.log(TEMPERATURE.most))
_START = np.array([-0.5, -3.0])  # where the search for log temperature and logit smoothing begins
_MOST_SMOOTHING = SMOOTHING.most  # so that a head which is mostly wrong still prefers a class
_NEVER = -30.0  # logit of a class that does not occur; those of the others have the mean 0


def fit_head(
    features: Floats,
    labels: Integers,
    *,
    classes: int,
    C: float,
    weights: NDArray[np.float64] | None = None,
    standardize: bool = False,
) -> Head:
    """Fit the head on features (n, d), class numbers (n,) and optional sample weights (n,).

    A class that does not occur is one that the head never predicts.

    Parameters
    ----------
    C
        Inverse of the L2 regularisation.
    standardize
        Scale all features to the variance 1 / d before, so that regularisation holds back all
        alike, however much the encoder whitened them. Many points gain by it, few lose. The head
        takes in the scale.

    Raises
    ------
    DataError
        When fewer than two classes have an image with a positive weight.
    """
    used = np.ones(len(labels), bool) if weights is None else weights > 0
    present = np.unique(labels[used])
    if len(present) < 2:
        raise DataError("fewer than two classes have a labelled training image")
    fitted_on = features[used].astype(np.float64)
    scale = np.ones(features.shape[1])
    if standardize:
        deviation = fitted_on.std(axis=0)
        varies = deviation > _ROUNDING * np.abs(fitted_on).max(axis=0)
        scale = np.where(varies, deviation, 1) * np.sqrt(features.shape[1])
    fitted_on /= scale
    estimator = LogisticRegression(C=C, max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():
        # One label per class is few, and not a regression.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        estimator.fit(
            fitted_on,
            labels[used],
            sample_weight=None if weights is None else weights[used],
        )
    found, offset = estimator.coef_ / scale, estimator.intercept_
    if len(present) == 2:  # scikit-learn keeps one row for two classes
        found, offset = (np.concatenate([-x, x]) / 2 for x in (found, offset))
    coefficients = np.zeros((classes, features.shape[1]), np.float32)
    intercept = np.full(classes, _NEVER, np.float32)
    coefficients[present], intercept[present] = found, offset
    return Head(coefficients, intercept)


def most_right(heads: Sequence[Head], features: Floats, labels: Integers) -> int:
    """Which of some heads predicts the most held-out images (n, d) right; the first of equals."""
    right = [int((head.logits(features).argmax(axis=1) == labels).sum()) for head in heads]
    return right.index(max(right))


def calibrate(head: Head, features: Floats, labels: Integers, *, level: float) -> Head:
    """Make the head's probabilities those that held-out labels support.

    First the temperature (Guo et al., "On calibration of modern neural networks", ICML 2017) and
    the smoothing that make the labels most likely. A few hundred images do not prove a confidence
    of 0.98, though, and the world differs from them: then smoothing rises until the mean confidence
    is no more than the exact lower confidence bound of the accuracy. With many images the bound is
    the accuracy. No prediction's class changes, and smoothing is at most 0.9.

    Parameters
    ----------
    features, labels
        Images (n, d) and classes (n,) that the head was not fitted on; with none, the head stays as
        it is.
    level
        One-sided confidence level of the bound, from 0.5 to less than 1.
    """
    if not len(labels):
        return head
    logits = head.logits(features).astype(np.float64)
    rows = np.arange(len(labels))

    def tried(parameters: NDArray[np.float64]) -> Head:
        temperature = np.exp(np.clip(parameters[0], *_LOG_TEMPERATURE))
        smoothing = _MOST_SMOOTHING * expit(parameters[1])
        return replace(head, temperature=temperature, smoothing=smoothing)

    def loss(parameters: NDArray[np.float64]) -> float:
        likelihood = tried(parameters).calibrate(logits)[rows, labels]
        return float(-np.log(np.maximum(likelihood, 1e-12)).mean())

    likely = tried(minimize(loss, _START, method="Nelder-Mead").x)
    confidence = float(likely.calibrate(logits).max(axis=1).mean())
    right = int((logits.argmax(axis=1) == labels).sum())
    bound, _ = clopper_pearson(right, len(labels), 2 * level - 1)  # one-sided
    # Smoothing by s leaves (1 - s) confidence + s / c of a confidence.
    chance = 1 / logits.shape[1]
    excess = max(0.0, (confidence - bound) / max(confidence - chance, 1e-12))
    smoothing = 1 - (1 - likely.smoothing) * (1 - excess)
    kept = np.array([likely.temperature, min(smoothing, _MOST_SMOOTHING)], np.float32)
    return replace(head, temperature=float(kept[0]), smoothing=float(kept[1]))  # as in its arrays
