"""Accuracy without labels: right on like images, honest about how sure it is."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from grocery.monitoring.accuracy import (
    average_thresholded_confidence,
    classwise_thresholded_confidence,
    difference_of_confidences,
    estimate_accuracy,
)
from grocery.reference.reference import Reference, confidence_threshold

CLASSES = ["apple", "leek", "pear"]


def world(
    seed: int, n: int, *, clarity: float = 2.0, humble: float = 0.1
) -> tuple[NDArray[np.float32], list[str]]:
    """Predictions that are right as often as they say, made less sure by `humble`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 3)) * clarity
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    drawn = (rng.random((n, 1)) > probabilities.cumsum(axis=1)[:, :2]).sum(axis=1)
    truth = [CLASSES[index] for index in drawn]
    return ((1 - humble) * probabilities + humble / 3).astype(np.float32), truth


def reference(seed: int = 0, n: int = 500, **how: float) -> Reference:
    return Reference.from_predictions(*world(seed, n, **how), CLASSES, "x")


def accuracy(probabilities: NDArray[np.float32], truth: list[str]) -> float:
    return float(
        np.mean([CLASSES[p] == t for p, t in zip(probabilities.argmax(1), truth, strict=True)])
    )


def test_the_difference_of_confidences_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1, 0], [0.6, 0.4, 0], [0.5, 0.3, 0.2], [0.8, 0.2, 0]])
    held_out = Reference.from_predictions(
        probabilities.astype(np.float32), ["apple", "leek", "apple", None], CLASSES, "x"
    )
    # Of three labelled images two are right; their mean confidence is 2 / 3.
    found = difference_of_confidences(held_out, np.array([0.5, 0.7], np.float32))
    assert found == pytest.approx(0.6)
    assert difference_of_confidences(held_out, np.full(3, 1.0, np.float32)) == pytest.approx(1)


def test_the_threshold_lets_as_many_through_as_are_right() -> None:
    confidences = np.array([0.9, 0.5, 0.7, 0.8], np.float32)
    hits = np.array([1, 0, 0, 1], np.int8)
    threshold = confidence_threshold(confidences, hits)
    assert threshold == pytest.approx(0.7)
    assert confidence_threshold(confidences, np.ones(4, np.int8)) == 0
    held_out = reference()
    same = average_thresholded_confidence(held_out, held_out.confidences)
    assert same == pytest.approx(held_out.accuracy)


def test_thresholds_of_classes_give_back_each_class() -> None:
    probabilities, truth = world(3, 600)
    held_out = Reference.from_predictions(probabilities, truth, CLASSES, "x")
    predicted, confidences = probabilities.argmax(axis=1), probabilities.max(axis=1)
    for index, name in enumerate(CLASSES):
        rows = predicted == index
        found = classwise_thresholded_confidence(held_out, confidences[rows], predicted[rows])
        precision = np.mean([truth[row] == name for row in np.flatnonzero(rows)])
        assert found == pytest.approx(precision, abs=0.01)


def test_the_interval_by_hand() -> None:
    """Chance on both sides, as much again as confidence moved, and half an image."""
    held_out = reference(humble=0.0)
    now = held_out.confidences[::5] * np.float32(0.9)
    found = estimate_accuracy(held_out, now)
    assert found is not None
    off = held_out.hits - held_out.confidences.astype(np.float64)
    chance = np.var(off, ddof=1) * (1 / 100 + 1 / 500)
    moved = now.mean(dtype=np.float64) - held_out.confidences.mean(dtype=np.float64)
    half = stats.norm.ppf(0.95) * (chance + moved**2) ** 0.5 + 0.5 / 100
    assert found.accuracy == pytest.approx(held_out.hits.mean() + moved)
    expected = (found.accuracy - half, found.accuracy + half)
    assert found.interval == pytest.approx(expected, abs=1e-5)
    assert 0 < expected[0] < expected[1] < 1


def test_the_interval_holds_nine_times_in_ten() -> None:
    """Of 300 worlds; fewer than 253, or more than 295, would have a chance of 0.1 %."""
    held, errors, n = 0, [], 25
    for seed in range(300):
        probabilities, truth = world(5000 + seed, n)
        found = estimate_accuracy(reference(seed, 300), probabilities.max(axis=1))
        assert found is not None
        low, high = found.interval
        held += low <= accuracy(probabilities, truth) <= high
        errors.append(found.accuracy - accuracy(probabilities, truth))
    assert 253 <= held <= 295
    assert abs(np.mean(errors)) < 0.02  # a confidence that is too low is corrected


def test_nothing_to_estimate_from() -> None:
    probabilities, _ = world(0, 30)
    unlabelled = Reference.from_predictions(probabilities, None, CLASSES, "x")
    assert estimate_accuracy(unlabelled, probabilities.max(axis=1)) is None
    assert estimate_accuracy(reference(), np.empty(0, np.float32)) is None
