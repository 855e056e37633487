"""The deployable classifier head: a calibrated linear classifier as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grocery.core import bounds
from grocery.core.arrays import Arrays, array_of
from grocery.core.bounds import Bounds
from grocery.core.linear import rowwise_product

KIND = "grocery-classifier"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """Multinomial logistic regression, with two numbers that calibrate its probabilities.

    Attributes
    ----------
    coefficients, intercept
        Shapes (c, d) and (c,), one row per class.
    temperature
        Divides the logits; above 1 makes predictions less confident.
    smoothing
        Share of every prediction that is given to all classes alike, at least 0 and less than 1:
        mistakes that no temperature accounts for.
    """

    coefficients: Floats
    intercept: Floats
    temperature: float = 1.0
    smoothing: float = 0.0

    def logits(self, features: Floats) -> Floats:
        """Uncalibrated scores (n, c) of features (n, d)."""
        return rowwise_product(features, self.coefficients.T) + self.intercept

    def predict_proba(self, features: Floats) -> Floats:
        """Calibrated class probabilities (n, c) of features (n, d)."""
        return self.calibrate(self.logits(features))

    def calibrate(self, logits: NDArray[Any]) -> NDArray[Any]:
        """Calibrated class probabilities (n, c) of logits (n, c), in their precision."""
        scaled = logits / logits.dtype.type(self.temperature)
        sharp = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        sharp /= sharp.sum(axis=1, keepdims=True)
        smoothing = logits.dtype.type(self.smoothing)
        probabilities: NDArray[Any] = (1 - smoothing) * sharp + smoothing / logits.shape[1]
        return probabilities

    def arrays(self, prefix: str) -> Arrays:
        """The head's arrays, with `prefix` before their names."""
        return {
            f"{prefix}coefficients": self.coefficients,
            f"{prefix}intercept": self.intercept,
            f"{prefix}calibration": np.array([self.temperature, self.smoothing], np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, prefix: str) -> Head:
        """Rebuild from what `arrays` gave; refuse what does not fit together, or is too large."""
        temperature, smoothing = map(float, array_of(arrays, f"{prefix}calibration", 2))
        bounds.TEMPERATURE.check("its temperature", temperature)
        bounds.SMOOTHING.check("its smoothing", smoothing)
        sides = bounds.CLASSES, Bounds(1, bounds.DIMENSIONS.most)
        coefficients = array_of(arrays, f"{prefix}coefficients", *sides)
        intercept = array_of(arrays, f"{prefix}intercept", len(coefficients))
        return cls(coefficients, intercept, temperature, smoothing)
