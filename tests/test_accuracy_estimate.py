"""Accuracy without labels: right where it was tried out, honest about how sure it is, else none."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from grocery.monitoring import accuracy
from grocery.monitoring.accuracy import (
    Estimate,
    error_of_map,
    estimate_accuracy,
    expected_loss,
    of_another_mix,
)
from grocery.reference.image_statistics import NAMES
from grocery.reference.reference import Reference
from grocery.reference.typical import class_means, leads
from thresholds import thresholds

CLASSES = ["apple", "leek", "pear"]
PARAMS = thresholds()
Floats = NDArray[np.float32]
Batch = tuple[Floats, Floats, Floats, NDArray[np.intp]]


def world(seed: int, n: int, *, noise: float = 1.0, shares: tuple[float, ...] = (1, 1, 1)) -> Batch:
    """Logits (n, 3), features, image statistics and truth: the more noise, the more mistakes.

    Pears are the hardest. Where an image is noisy, its features are too.
    """
    rng = np.random.default_rng(seed)
    truth = rng.choice(3, n, p=np.array(shares) / sum(shares))
    logits = rng.normal(size=(n, 3)) * noise
    logits[np.arange(n), truth] += np.array([4.0, 4.0, 3.2])[truth]
    features = np.eye(3)[truth] + rng.normal(0, 0.1, (n, 3)) + 0.1 * (noise - 1)
    statistics = (rng.normal(0, 1, (n, len(NAMES))) + 0.3 * (noise - 1)).astype(np.float32)
    return logits.astype(np.float32), features.astype(np.float32), statistics, truth


def tried_out() -> Reference:
    """A reference that was tried out under two kinds of noise, which cost about the same."""
    logits, features, statistics, truth = world(0, 600)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = [CLASSES[number] for number in truth]
    seen = {"features": features, "logits": logits, "image_statistics": statistics}
    made = Reference.from_predictions(probabilities, names, CLASSES, "x", **seen)
    rows = []
    for number, noise in enumerate((1.2, 1.5, 2.0, 3.0, 1.3, 1.7, 2.5, 4.0)):
        now, features, statistics, truth = world(9000 + number, 2_000, noise=noise)
        predicted = now.argmax(axis=1)
        fall = -made.typical["leads"].common(leads(now)[:, None], predicted)[0]
        usual = float(made.class_accuracies[predicted].mean())
        loss = usual - float((predicted == truth).mean())
        rows.append((number // 4, fall, loss, *made.distances(features, statistics, predicted)))
    return replace(made, trials=np.array(rows, np.float32))


YARDSTICK = tried_out()


def estimate(seed: int, n: int = 100, **how: Any) -> tuple[Estimate, float]:
    logits, features, statistics, truth = world(seed, n, **how)
    found = estimate_accuracy(YARDSTICK, logits, features, statistics, PARAMS)
    return found, float((logits.argmax(axis=1) == truth).mean())


def test_leads_by_hand() -> None:
    logits = np.array([[3.0, 1.0, -1.0], [0.0, 0.0, 9.0]], np.float32)
    spread = np.std([3, 1, -1]), np.std([0, 0, 9])
    assert leads(logits) == pytest.approx([2 / spread[0], 9 / spread[1]])
    assert leads(0.1 * logits - 7) == pytest.approx(leads(logits), rel=1e-4)  # dim light
    assert leads(np.ones((2, 1), np.float32)).tolist() == [0, 0]


def test_class_means_by_hand() -> None:
    """Ten images' worth of the overall mean is in each."""
    values = np.array([[1.0], [1.0], [4.0]], np.float32)
    found = class_means(values, np.array([0, 0, 2]), 3)
    assert found[:, 0] == pytest.approx([22 / 12, 2, 24 / 11])


def test_the_map_never_falls_and_begins_at_nothing() -> None:
    falls = np.array([0.4, 0.2, 0.6, 0.3], np.float32)
    losses = np.array([0.1, 0.06, 0.5, 0.02], np.float32)
    asked = np.array([-1, 0, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 2])
    expected = [0, 0, 0.04, 0.04, 0.04, 0.1, 0.3, 0.5, 0.5]
    assert expected_loss(falls, losses, asked) == pytest.approx(expected, abs=1e-6)


def test_the_error_of_the_map_is_of_kinds_that_are_left_out() -> None:
    """Each kind by the other's trial: the one says 0.2 where 0.1 is true, the other 0.1 for 0.2."""
    trials = np.array([[0, 1, 0.1, 0, 0, 0, 0], [1, 1, 0.2, 0, 0, 0, 0]], np.float32)
    assert error_of_map(trials) == pytest.approx(0.1 / 0.17)


@pytest.mark.parametrize(("noise", "least"), [(1.0, 99), (1.4, 90), (1.8, 50)])
def test_the_interval_holds_nine_times_in_ten(noise: float, least: int) -> None:
    """Also where accuracy has fallen. Of 100 worlds fewer than 80 would have a chance of 0.1 %."""
    found = [estimate(seed, noise=noise) for seed in range(100)]
    said = [(one, true) for one, true in found if one.interval is not None]
    assert len(said) >= least
    held = [one.interval[0] <= true <= one.interval[1] for one, true in said if one.interval]
    assert np.mean(held) > 0.8
    off = [one.accuracy - true for one, true in said if one.accuracy is not None]
    assert abs(np.mean(off)) < 0.03


def test_a_fall_is_an_alert_and_no_fall_is_none() -> None:
    def alerts(noise: float) -> float:
        signals = [estimate(seed, noise=noise)[0].signal for seed in range(40)]
        found = [s for s in signals if s and s.p_value <= PARAMS.significance]
        return sum(s.effect >= s.threshold for s in found) / len(signals)

    assert alerts(1.0) <= 0.05
    assert alerts(2.2) > 0.9


def test_one_class_alone_is_no_fall() -> None:
    """Pears are right less often than apples, and the estimate knows it."""
    found = [estimate(seed, shares=(0, 0, 1)) for seed in range(20)]
    pears = [one.accuracy for one, _ in found if one.accuracy is not None]
    apples = [one.accuracy for one, _ in (estimate(s, shares=(1, 0, 0)) for s in range(20))]
    assert len(pears) >= 18
    assert np.mean(pears) == pytest.approx(np.mean([true for _, true in found]), abs=0.06)
    assert np.mean(pears) < np.mean([one for one in apples if one is not None]) - 0.003
    signals = [one.signal for one, _ in found if one.signal and one.signal.p_value <= 0.01]
    assert sum(signal.effect >= signal.threshold for signal in signals) <= 2


def test_another_mix_by_hand() -> None:
    """Of two classes, four images each, one is farther ahead than the other."""
    logits = np.repeat(np.array([[3, 0, 0], [0, 3, 1], [0, 3, 2]], np.float32), (4, 2, 2), axis=0)
    seen = {"features": logits, "image_statistics": np.zeros((8, len(NAMES)), np.float32)}
    made = Reference.from_predictions(logits, None, CLASSES, "x", logits=logits, **seen)
    first, second = leads(logits)[:4].mean(), leads(logits)[4:].mean()
    apart = (first - second) ** 2 / 4 / made.typical["leads"].spread[0] ** 2
    assert of_another_mix(made, np.array([0, 0, 1, 1])) == 0
    alone = of_another_mix(made, np.array([0, 0, 0, 0]))
    assert alone == pytest.approx((1 / 2 - (1 / 4 + 1 / 8) / 2) * apart, rel=1e-5)


def of_thirty(draw: Callable[[np.random.Generator], NDArray[np.intp]]) -> tuple[int, int]:
    """Of 200 batches of 30 classes, some easy and some hard: that fell, and whose interval held."""
    rng = np.random.default_rng(0)
    levels = rng.normal(3, 1, 30)

    def seen(truth: NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
        logits = rng.normal(size=(len(truth), 30))
        logits[np.arange(len(truth)), truth] += levels[truth]
        others = rng.normal(size=(len(truth), len(NAMES))).astype(np.float32)
        return logits.astype(np.float32), others, others

    truth = rng.integers(30, size=600)
    logits, features, statistics = seen(truth)
    names = [f"{number:02}" for number in range(30)]
    arrays = {"features": features, "logits": logits, "image_statistics": statistics}
    labels = [names[number] for number in truth]
    made = Reference.from_predictions(logits, labels, names, "x", **arrays)
    # As if tried out under anything.
    made = replace(made, trials=YARDSTICK.trials * np.array([1, 1, 1, 99, 99, 99, 99], np.float32))
    fell = held = 0
    for _ in range(200):
        truth = draw(rng)
        batch = seen(truth)
        right = float((batch[0].argmax(axis=1) == truth).mean())
        found = estimate_accuracy(made, *batch, PARAMS)
        low, high = found.interval or (0, 1)
        fell += found.signal is not None and found.signal.p_value <= PARAMS.significance
        held += low <= right <= high
    return fell, held


def test_classes_that_are_hard_are_no_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three classes of 30: those that are hard are taken for others, which are not here.

    If the predicted classes explained the mix, 30 would fall and 158 hold.
    """
    monkeypatch.setattr(accuracy, "WIDEST", 1.0)
    fell, held = of_thirty(lambda rng: rng.choice(30, 3, replace=False)[np.arange(60) % 3])
    assert fell <= 15
    assert held >= 175


def test_chance_is_no_fall_however_few_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the normal distribution 20 of these batches of five images would fall."""
    monkeypatch.setattr(accuracy, "WIDEST", 1.0)
    fell, held = of_thirty(lambda rng: rng.integers(30, size=5))
    assert fell <= 10
    assert held >= 170


def test_nothing_is_estimated_where_nothing_was_tried() -> None:
    logits, features, statistics, _ = world(1, 100)
    same = YARDSTICK.typical["features"].means[logits.argmax(axis=1)].astype(np.float32)
    for one, two, three in (
        (logits, features + 2, statistics),
        (logits, features, statistics - 9),
        (logits * 0, features, statistics),
        (logits, features, statistics * 0),  # all alike
        (logits, same, statistics),
    ):
        found = estimate_accuracy(YARDSTICK, one, two, three, PARAMS)
        assert (found.outside, found.accuracy, found.interval) == (True, None, None)
        assert "farther from those before" in (found.refusal or "")
    untried = replace(YARDSTICK, trials=YARDSTICK.trials[:0])
    found = estimate_accuracy(untried, logits, features, statistics, PARAMS)
    assert found.refusal == "the release was not tried out under shifts"
    for n in (0, 1):
        found = estimate_accuracy(YARDSTICK, logits[:n], features[:n], statistics[:n], PARAMS)
        assert (found.accuracy, found.refusal) == (None, "it has too few images")


def test_an_interval_that_is_of_no_use_is_no_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accuracy, "WIDEST", 0.01)
    found, _ = estimate(1, noise=1.8)
    assert (found.accuracy, found.outside) == (None, False)
    assert found.signal
    assert found.signal.sentence == "Accuracy has fallen; by how much cannot be said."
    assert (found.refusal or "").startswith("it may lie anywhere from 0.")
