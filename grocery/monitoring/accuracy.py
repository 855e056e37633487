"""How many of a batch's predictions are right, without a label.

The release was tried out under known shifts (`grocery.reference.trials`). From these trials comes a
map: by how much accuracy falls where the model's lead (`grocery.reference.typical.leads`) has
fallen by so much. It never rises again (isotonic regression), and it starts from what is usual for
the classes that the batch is taken for, so that an uncommon mix of classes is no loss.

The interval allows for four errors: that hits are drawn at random on both sides, that the fall is
measured on n images, that another mix of classes is easier or harder than it looks, and that shifts
of one kind cost more than those of another. The last is what the map is off by, nine times in ten,
for kinds that are left out of it.

Where a batch lies farther from the held-out images than any trial, or where the interval is too
wide to be of use, there is no estimate but the reason why.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from scipy.special import stdtr

from grocery.core.params import MonitorParams
from grocery.monitoring.signals import Signal
from grocery.reference.reference import Reference
from grocery.reference.typical import leads

_QUANTILE = 1.6449  # of the normal distribution, for an interval of nine in ten
WIDEST = 0.25  # interval that is of use
FARTHER = 1.1  # times the farthest trial is outside of what is known
_NEAR = (0.0, 0.5, 0.5, 0.5)  # distances that are never far, see `Reference.distances`
_FLOOR = 0.02  # loss of accuracy that is added to each when the error of the map is a share of it

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An accuracy that was not measured, and the interval that holds it nine times in ten.

    Both are None where it cannot be estimated; then `refusal` says why.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    refusal: str | None
    signal: Signal | None  # whether it has fallen; None where nothing can be said
    outside: bool = False  # whether the batch is farther from the held-out images than any trial


def estimate_accuracy(
    reference: Reference, logits: Floats, features: Floats, statistics: Floats, p: MonitorParams
) -> Estimate:
    """Estimate the accuracy on a batch from its logits (n, c), features and image statistics."""
    n = len(logits)
    if n < 2:
        return Estimate(None, None, "it has too few images", None)
    if not len(reference.trials):
        return Estimate(None, None, "the release was not tried out under shifts", None)
    usual, predicted = reference.typical["leads"], logits.argmax(axis=1)
    off = leads(logits) - usual.means[predicted, 0]
    fall = -float(off.mean())
    mix = of_another_mix(reference, predicted)
    doubt = usual.spread[0] ** 2 * (1 / usual.images + mix)
    error = float(np.sqrt(off.var(ddof=1) / n + doubt))
    falls, losses = reference.trials[:, 1], reference.trials[:, 2]
    loss = max(0.0, float(expected_loss(falls, losses, fall)))
    either = expected_loss(falls, losses, np.array([fall - error, fall + error]))
    accuracy = float(reference.class_accuracies[predicted].mean(dtype=np.float64)) - loss
    accuracy = min(1.0, max(0.0, accuracy))

    chance = min(0.25, max(0.02, accuracy * (1 - accuracy))) * (1 / n + 1 / reference.images + mix)
    sampling = _QUANTILE**2 * (chance + float(either[1] - either[0]) ** 2 / 4)
    half = (sampling + (error_of_map(reference.trials) * (loss + _FLOOR)) ** 2) ** 0.5
    interval = (max(0.0, accuracy - half), min(1.0, accuracy + half))

    farthest = np.maximum(FARTHER * reference.trials[:, 3:].max(axis=0), _NEAR)
    away = reference.distances(features, statistics, predicted)
    lost = fall > float(falls.max()) + _QUANTILE * error
    outside = bool(lost or (np.array(away) > farthest).any())
    # Student's t: of 20 images the normal distribution makes twice the false alarms.
    p_value = float(stdtr(n - 1, -fall / error)) if error else 1.0
    why = None
    if outside:
        why = "the images lie farther from those before than any that the model was tried out on"
    elif interval[1] - interval[0] > WIDEST:
        why = f"it may lie anywhere from {interval[0]:.2f} to {interval[1]:.2f}"

    if loss < p.min_estimated_drop or p_value > p.significance:
        sentence = "Nothing says that accuracy has fallen."
    elif why:
        sentence = "Accuracy has fallen; by how much cannot be said."
    else:
        sentence = f"Accuracy has fallen by about {100 * loss:.0f} points."
    signal = Signal("estimate", fall, p_value, loss, p.min_estimated_drop, sentence)
    if why:
        return Estimate(None, None, why, signal, outside)
    return Estimate(accuracy, interval, None, signal)


def of_another_mix(reference: Reference, predicted: NDArray[np.intp]) -> float:
    """Variance of a batch's mean that its mix of classes adds, in units of that of one image.

    An image that is taken for a class need not be of it, least of all where most classes are
    missing, so what is usual for the predicted classes does not explain all of another mix. Classes
    therefore count as drawn by chance: they are as far apart as the leads of the reference's are.
    That is weighed with the squared differences of the shares of classes, less what the numbers of
    images explain: on average it is nothing where the mix is the same.
    """
    values, before = leads(reference.logits), reference.logits.argmax(axis=1)
    sizes, n = np.bincount(before, minlength=len(reference.classes)), len(predicted)
    shares = sizes / len(before)
    own = np.bincount(before, values, minlength=len(sizes)) / np.maximum(sizes, 1)
    apart = float(shares @ (own - values.mean(dtype=np.float64)) ** 2)
    moved = ((np.bincount(predicted, minlength=len(sizes)) / n - shares) ** 2).sum()
    by_chance = (1 / n + 1 / len(before)) * (1 - (shares**2).sum())
    one = max(float(reference.typical["leads"].spread[0]) ** 2, 1e-12)
    return max(0.0, float(moved - by_chance)) * apart / one


def expected_loss(falls: Floats, losses: Floats, fall: float | Doubles) -> Doubles:
    """Loss of accuracy where the lead has fallen so far, by trials (t,); it never falls with it."""
    x, y = np.append(falls, 0.0), np.append(losses, 0.0)  # nothing happened, nothing was lost
    order = np.lexsort((y, x))
    fitted = isotonic_regression(y[order].astype(np.float64)).x
    found: Doubles = np.interp(fall, x[order], fitted)
    return found


def error_of_map(trials: Floats) -> float:
    """Error of the map nine times in ten, as a share of the loss, for kinds of shifts left out."""
    shares = []
    for kind in np.unique(trials[:, 0]):
        left_out = trials[:, 0] == kind
        falls, losses = trials[~left_out, 1], trials[~left_out, 2]
        said = expected_loss(falls, losses, trials[left_out, 1].astype(np.float64))
        true = trials[left_out, 2]
        shares.append(np.abs(said - true) / (np.maximum(0, said + true) / 2 + _FLOOR))
    return float(np.quantile(np.concatenate(shares), 0.9))
