"""The deployable classifier head: a calibrated linear classifier as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from grocery.arrays import Arrays
from grocery.features.projection import rowwise_product

KIND = "grocery-classifier"

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """Multinomial logistic regression with a temperature.

    Attributes
    ----------
    coefficients, intercept
        Shapes (c, d) and (c,), one row a class.
    temperature
        Divides the logits; above 1 makes predictions less confident.
    """

    coefficients: Floats
    intercept: Floats
    temperature: float = 1.0

    def logits(self, features: Floats) -> Floats:
        """Uncalibrated scores (n, c) of features (n, d)."""
        return rowwise_product(features, self.coefficients.T) + self.intercept

    def predict_proba(self, features: Floats) -> Floats:
        """Calibrated class probabilities (n, c) of features (n, d)."""
        return softmax(self.logits(features) / np.float32(self.temperature))

    def with_temperature(self, temperature: float) -> Head:
        """The same head at another temperature."""
        return replace(self, temperature=float(np.float32(temperature)))

    def arrays(self, prefix: str) -> Arrays:
        """The head's arrays, with `prefix` before their names."""
        return {
            f"{prefix}coefficients": self.coefficients,
            f"{prefix}intercept": self.intercept,
            f"{prefix}temperature": np.array([self.temperature], np.float32),
        }

    @classmethod
    def from_arrays(cls, arrays: Arrays, prefix: str) -> Head:
        """Rebuild from what `arrays` gave."""
        return cls(
            arrays[f"{prefix}coefficients"],
            arrays[f"{prefix}intercept"],
            float(arrays[f"{prefix}temperature"][0]),
        )


def softmax(logits: Floats) -> Floats:
    """Softmax of each row of logits (n, c)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities
