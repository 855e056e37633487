"""How good a classifier is, as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose confidence lies in (lower, upper]: how many, how confident, how often right."""

    lower: float
    upper: float
    images: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class ClassScore:
    """Precision, recall, F1 and number of images of one class."""

    name: str
    precision: float
    recall: float
    f1: float
    images: int


def summary(
    probabilities: Floats, labels: Integers, *, coarse: Sequence[str | None], bins: int
) -> dict[str, float]:
    """Test metrics of class probabilities (n, c) against class numbers (n,).

    ``coarse_accuracy`` is left out unless each of the c classes has a `coarse` class. The expected
    calibration error is of `bins` bins.
    """
    predicted = probabilities.argmax(axis=1)
    scores = class_scores(probabilities, labels, names=[""] * probabilities.shape[1])
    tested = [score.f1 for score in scores if score.images]
    # Stable, so that equal probabilities rank by class number on every machine.
    top = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    found = {
        "accuracy": float((predicted == labels).mean()),
        "macro_f1": float(np.mean(tested)),
        "top5_accuracy": float((top == labels[:, None]).any(axis=1).mean()),
        "calibration_error": calibration_error(reliability(probabilities, labels, bins=bins)),
    }
    if all(name is not None for name in coarse):
        names = np.array(coarse)
        found["coarse_accuracy"] = float((names[predicted] == names[labels]).mean())
    return found


def class_scores(
    probabilities: Floats, labels: Integers, *, names: Sequence[str]
) -> list[ClassScore]:
    """Scores of each class, in the order of `names`; what is not defined counts as 0."""
    predicted = probabilities.argmax(axis=1)
    count = partial(np.bincount, minlength=len(names))
    right, said, images = count(labels[predicted == labels]), count(predicted), count(labels)
    return [
        ClassScore(name, _share(tp, p), _share(tp, n), _share(2 * tp, p + n), int(n))
        for name, tp, p, n in zip(names, right, said, images, strict=True)
    ]


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0


def reliability(probabilities: Floats, labels: Integers, *, bins: int) -> list[ReliabilityBin]:
    """The reliability diagram: images by confidence, in `bins` bins of equal width.

    Empty bins are left out.
    """
    confidence = probabilities.max(axis=1).astype(np.float64)
    correct = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    return [
        ReliabilityBin(
            b / bins,
            (b + 1) / bins,
            int(inside.sum()),
            float(confidence[inside].mean()),
            float(correct[inside].mean()),
        )
        for b in range(bins)
        if (inside := index == b).any()
    ]


def calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Expected calibration error: mean gap of confidence and accuracy, weighted by images.

    Naeini, Cooper & Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning"
    (AAAI 2015).
    """
    total = sum(b.images for b in bins)
    return float(sum(b.images * abs(b.confidence - b.accuracy) for b in bins) / total)
