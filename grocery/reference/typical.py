"""What is typical of the images that a model takes for one class or another.

A batch of one class alone differs from the mix of all held-out images, and nothing is wrong with
it. So whatever is measured of a batch is compared with what is usual for the classes that its
images are taken for; what all of them have in common beyond that is a shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

_PRIOR = 10.0  # images' worth of the overall mean in the mean of each class

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.intp]


def leads(logits: Floats) -> Floats:
    """How far the best class of each image is ahead of the next, in units of its scores' spread.

    From logits (n, c) an array (n,); 0 of one class. Unlike the confidence it does not change when
    all scores of an image shrink alike, as they do in dim light, which costs little accuracy.
    """
    if logits.shape[1] < 2:
        return np.zeros(len(logits), np.float32)
    best = np.partition(logits, -2, axis=1)[:, -2:]
    ahead: Floats = (best[:, 1] - best[:, 0]) / np.maximum(logits.std(axis=1), np.float32(1e-6))
    return ahead


def class_means(values: Floats, predicted: Rows, classes: int) -> Doubles:
    """Means (c, k) of values (n, k) by predicted class (n,).

    Each is drawn to the overall mean, as by `_PRIOR` more images of it.
    """
    overall = values.mean(axis=0, dtype=np.float64)
    sums = np.zeros((classes, values.shape[1]))
    np.add.at(sums, predicted, values)
    counts = np.bincount(predicted, minlength=classes)[:, None]
    means: Doubles = (sums + _PRIOR * overall) / (counts + _PRIOR)
    return means


@dataclass(frozen=True)
class Typical:
    """One measure of held-out images: its means by class (c, k), and its spread around them (k)."""

    means: Doubles
    spread: Doubles
    images: int

    @classmethod
    def of(cls, values: Floats, predicted: Rows, classes: int) -> Self:
        """From values (n, k) and predicted classes (n,)."""
        means = class_means(values, predicted, classes)
        return cls(means, (values - means[predicted]).std(axis=0), len(values))

    def common(self, values: Floats, predicted: Rows) -> Doubles:
        """What n images have in common, (k,), beyond what is typical of their classes."""
        shift: Doubles = (values - self.means[predicted]).mean(axis=0)
        return shift
