"""Principal component analysis, for local descriptors and for whole images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """An affine map to k dimensions: ``(points - mean) @ components``.

    Attributes
    ----------
    mean
        Centre, shape (d,).
    components
        Shape (d, k); with whitening, each column is divided by its standard deviation.
    """

    mean: Floats
    components: Floats

    def __call__(self, points: Floats) -> Floats:
        """Project points (n, d) to (n, k)."""
        projected: Floats = points @ self.components
        projected -= self.mean @ self.components
        return projected


def fit_projection(points: Floats, *, dimensions: int, whiten: bool) -> Projection:
    """Fit PCA to points (n, d) and keep at most `dimensions` components.

    The smaller of the covariance (d, d) and the Gram matrix (n, n) is decomposed. Components that
    carry no variance are left out, so fewer than `dimensions` may come back.
    """
    mean = points.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = points - mean
    n, d = centred.shape
    if d <= n:
        variances, vectors = np.linalg.eigh((centred.T @ centred).astype(np.float64) / n)
    else:
        variances, left = np.linalg.eigh((centred @ centred.T).astype(np.float64) / n)
    order = np.argsort(-variances, kind="stable")[: min(dimensions, d, n - 1)]
    order = order[variances[order] > 1e-7 * variances[order[0]]]
    scale = np.sqrt(variances[order])
    if d <= n:
        components = vectors[:, order]
    else:
        components = centred.T @ (left[:, order] / (scale * np.sqrt(n))).astype(np.float32)
    # The sign of an eigenvector is arbitrary: fix it.
    largest = np.abs(components).argmax(axis=0)
    components = components * np.sign(components[largest, np.arange(components.shape[1])])
    if whiten:
        components = components / scale
    return Projection(mean, np.ascontiguousarray(components, dtype=np.float32))


def unit_length(points: Floats) -> Floats:
    """Scale each row of points (n, d) to Euclidean length one; a zero row stays zero."""
    norms = np.sqrt((points * points).sum(axis=1, keepdims=True))
    scaled: Floats = points / np.maximum(norms, np.float32(1e-12))
    return scaled
