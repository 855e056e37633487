"""How many of a batch's predictions are right, without a label.

All estimates start from held-out images, of which both the confidences and the hits are known.

=========================================== ====================================================
`difference_of_confidences`                 held-out accuracy plus the change of mean confidence
                                            (Guillory et al., "Predicting with confidence on
                                            unseen distributions", ICCV 2021)
`average_thresholded_confidence`            share of images above a confidence, above which as
                                            many held-out images lie as were right (Garg et al.,
                                            "Leveraging unlabeled data to predict
                                            out-of-distribution performance", ICLR 2022)
`classwise_thresholded_confidence`          the same with a threshold a predicted class
=========================================== ====================================================

The monitor reports the first; the drill compares all three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grocery.reference.reference import Reference, confidence_threshold

_QUANTILE = 1.6449  # of the normal distribution, for an interval of nine in ten

# Standard error that a shift adds to an estimate, in units of the change of mean confidence:
# nothing says that accuracy moves exactly as confidence does. With 1, accuracy that stayed where it
# was, or moved twice as far, is one standard error away. Chosen by the drill.
SHIFT_ERROR = 1.0

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Estimate:
    """An accuracy that was not measured, and the interval that holds it nine times in ten."""

    accuracy: float
    interval: tuple[float, float]


def estimate_accuracy(reference: Reference, confidences: Floats) -> Estimate | None:
    """Estimate the accuracy on a batch from its confidences (n).

    The interval holds what a person would count on these n images. It allows for two errors: that
    hits are drawn at random on both sides (the standard deviation of hit less confidence, over the
    square root of either number), and that accuracy need not move as confidence does (see
    `SHIFT_ERROR`). Half an image is added at either end, since hits are whole numbers. None without
    images, or when fewer than two held-out images had a label.
    """
    known = reference.hits >= 0
    n, m = len(confidences), int(known.sum())
    if not n or m < 2:
        return None
    accuracy = difference_of_confidences(reference, confidences)
    before = reference.confidences[known].astype(np.float64)
    sampling = float((reference.hits[known] - before).var(ddof=1)) * (1 / n + 1 / m)
    shift = SHIFT_ERROR * (float(confidences.mean(dtype=np.float64)) - float(before.mean()))
    half = _QUANTILE * (sampling + shift**2) ** 0.5 + 0.5 / n
    return Estimate(accuracy, (max(0.0, accuracy - half), min(1.0, accuracy + half)))


def difference_of_confidences(reference: Reference, confidences: Floats) -> float:
    """Held-out accuracy plus the change of mean confidence, 0 to 1."""
    known = reference.hits >= 0
    before = float(reference.confidences[known].mean(dtype=np.float64))
    right = float(reference.hits[known].mean(dtype=np.float64))
    now = float(confidences.mean(dtype=np.float64))
    return min(1.0, max(0.0, right + now - before))


def average_thresholded_confidence(reference: Reference, confidences: Floats) -> float:
    """Share of the n confidences above the held-out images' threshold."""
    known = reference.hits >= 0
    threshold = confidence_threshold(reference.confidences[known], reference.hits[known])
    return float(np.mean(confidences > threshold))


def classwise_thresholded_confidence(
    reference: Reference, confidences: Floats, predicted: NDArray[np.intp]
) -> float:
    """Share of the n confidences above the thresholds of their predicted classes (n)."""
    return float(np.mean(confidences > reference.thresholds[predicted]))
