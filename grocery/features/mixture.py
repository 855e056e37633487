"""A mixture of Gaussians with diagonal covariances, fitted by expectation-maximisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_CHUNK = 8192  # rows a step, so that the (rows, components) responsibilities stay in cache
_MIN_VARIANCE = 1e-4  # relative to the data's variance; keeps a component from collapsing


@dataclass(frozen=True)
class DiagonalMixture:
    """Weights (k), means (k, d) and variances (k, d), all float32."""

    weights: Floats
    means: Floats
    variances: Floats

    def responsibilities(self, points: Floats) -> Floats:
        """Posterior probability (n, k) of each component for points (n, d)."""
        # log w_k - 1/2 sum_d [log 2 pi s_kd + (x_d - m_kd)^2 / s_kd], expanded into two products;
        # what does not depend on k cancels in the softmax.
        precision = 1 / self.variances
        constant = np.log(self.weights) - 0.5 * (
            np.log(self.variances).sum(axis=1) + (self.means**2 * precision).sum(axis=1)
        )
        logits = points @ (self.means * precision).T
        logits -= (points * points) @ (0.5 * precision).T
        logits += constant
        logits -= logits.max(axis=1, keepdims=True)
        np.exp(logits, out=logits)
        logits /= logits.sum(axis=1, keepdims=True)
        return logits.astype(np.float32, copy=False)


def fit_mixture(
    points: Floats, *, components: int, iterations: int, rng: np.random.Generator
) -> DiagonalMixture:
    """Fit a mixture to points (n, d), starting from distinct points drawn by `rng`.

    Dempster, Laird & Rubin, "Maximum likelihood from incomplete data via the EM algorithm" (1977).
    The number of iterations is fixed: the vocabulary of a Fisher vector needs no exact optimum.
    """
    total = points.astype(np.float64).var(axis=0)
    floor = _MIN_VARIANCE * total + 1e-12
    mixture = DiagonalMixture(
        weights=np.full(components, 1 / components, np.float32),
        means=points[rng.choice(len(points), components, replace=len(points) < components)],
        variances=np.tile((total / 4 + floor).astype(np.float32), (components, 1)),
    )
    for _ in range(iterations):
        mass = np.zeros(components)
        first = np.zeros((components, points.shape[1]))
        second = np.zeros_like(first)
        for start in range(0, len(points), _CHUNK):
            chunk = points[start : start + _CHUNK]
            posterior = mixture.responsibilities(chunk)
            mass += posterior.sum(axis=0, dtype=np.float64)
            first += posterior.T @ chunk
            second += posterior.T @ (chunk * chunk)
        mass = np.maximum(mass, 1e-6)
        means = first / mass[:, None]
        variances = np.maximum(second / mass[:, None] - means**2, floor)
        mixture = DiagonalMixture(
            weights=(mass / mass.sum()).astype(np.float32),
            means=means.astype(np.float32),
            variances=variances.astype(np.float32),
        )
    return mixture
