"""A mixture of Gaussians with diagonal covariances, fitted by expectation-maximisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from grocery.core.threads import blocks, thread_map

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_CHUNK = 1024  # rows a step, so that the (rows, components) responsibilities stay in cache
_PART = 16 * _CHUNK  # rows of one task of the fit
_MIN_VARIANCE = 1e-4  # relative to the data's variance; keeps a component from collapsing
# exp(-60) is nothing beside 1, and far from the subnormal numbers that slow a product tenfold.
_LEAST_LOGIT = np.float32(-60)


@dataclass(frozen=True)
class DiagonalMixture:
    """Weights (k), means (k, d) and variances (k, d), all float32."""

    weights: Floats
    means: Floats
    variances: Floats

    def statistics(self, points: Floats) -> tuple[Doubles, Doubles, Doubles]:
        """Share points (n, d) out by their responsibilities, and sum up what each component gets.

        Returns
        -------
        Mass (k, 1), sums (k, d) and sums of squares (k, d).
        """
        d = points.shape[1]
        total = np.zeros((len(self.weights), 2 * d + 1))
        for start in range(0, len(points), _CHUNK):
            extended = _extended(points[start : start + _CHUNK])
            posterior, sums = self._unnormalised(extended)
            total += posterior.T @ (extended / sums)
        return total[:, 2 * d :], total[:, :d], total[:, d : 2 * d]

    def _unnormalised(self, extended: Floats) -> tuple[Floats, Floats]:
        """Posterior (n, k) up to a factor a row, and the sum (n, 1) of each row."""
        logits = extended @ self._log_joint
        logits -= logits.max(axis=1, keepdims=True)
        np.maximum(logits, _LEAST_LOGIT, out=logits)
        np.exp(logits, out=logits)
        return logits, logits.sum(axis=1, keepdims=True)

    @cached_property
    def _log_joint(self) -> Floats:
        """Matrix (2 d + 1, k) that makes log densities of points, their squares and a 1.

        log w_k - 1/2 sum_d [log 2 pi s_kd + (x_d - m_kd)^2 / s_kd], expanded into one product; what
        does not depend on k cancels in the softmax.
        """
        precision = 1 / self.variances
        constant = np.log(self.weights) - 0.5 * (
            np.log(self.variances).sum(axis=1) + (self.means**2 * precision).sum(axis=1)
        )
        rows = np.concatenate([self.means * precision, -0.5 * precision, constant[:, None]], axis=1)
        return np.ascontiguousarray(rows.T, dtype=np.float32)


def _extended(points: Floats) -> Floats:
    """Points (n, d), their squares and a column of ones, side by side."""
    n, d = points.shape
    extended = np.empty((n, 2 * d + 1), np.float32)
    extended[:, :d] = points
    np.multiply(points, points, out=extended[:, d : 2 * d])
    extended[:, -1] = 1
    return extended


def fit_mixture(
    points: Floats, *, components: int, iterations: int, rng: np.random.Generator
) -> DiagonalMixture:
    """Fit a mixture to points (n, d), starting from distinct points drawn by `rng`.

    Dempster, Laird & Rubin, "Maximum likelihood from incomplete data via the EM algorithm" (1977).
    The number of iterations is fixed: the vocabulary of a Fisher vector needs no exact optimum.
    """
    variance = points.astype(np.float64).var(axis=0)
    floor = _MIN_VARIANCE * variance + 1e-12
    mixture = DiagonalMixture(
        weights=np.full(components, 1 / components, np.float32),
        means=points[rng.choice(len(points), components, replace=len(points) < components)],
        variances=np.tile((variance / 4 + floor).astype(np.float32), (components, 1)),
    )
    parts = [points[rows] for rows in blocks(len(points), _PART)]
    with thread_map() as in_threads:
        for _ in range(iterations):
            found = in_threads(mixture.statistics, parts)
            mass, first, second = (sum(each) for each in zip(*found, strict=True))
            mass = np.maximum(mass, 1e-6)
            means = first / mass
            variances = np.maximum(second / mass - means**2, floor)
            mixture = DiagonalMixture(
                weights=(mass[:, 0] / mass.sum()).astype(np.float32),
                means=means.astype(np.float32),
                variances=variances.astype(np.float32),
            )
    return mixture
