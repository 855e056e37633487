"""Principal component analysis, for local descriptors and for whole images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from grocery.core.arrays import Arrays, array_of
from grocery.core.bounds import Bounds
from grocery.core.linear import rowwise_product

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Projection:
    """An affine map to k dimensions: ``(points - mean) @ components / scale``.

    The mean has shape (d,); the components are orthonormal columns (d, k); the scale (k,) is all
    ones without whitening.
    """

    mean: Floats
    components: Floats
    scale: Floats

    @property
    def length(self) -> int:
        """Entries of a point."""
        return len(self.mean)

    @property
    def dimensions(self) -> int:
        """Entries of a projected point."""
        return len(self.scale)

    def __call__(self, points: Floats) -> Floats:
        """Project points (n, d) to (n, k)."""
        return self._finish(points @ self.components)

    def one_by_one(self, points: Floats) -> Floats:
        """The same, where a row's bytes must not depend on how many rows there are."""
        return self._finish(rowwise_product(points, self.components))

    def arrays(self, prefix: str) -> Arrays:
        """What was fitted, by name."""
        return {f"{prefix}{field.name}": getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(
        cls, arrays: Arrays, prefix: str, d: Bounds, k: Bounds, *, dtype: DTypeLike = np.float32
    ) -> Self:
        """Rebuild from arrays that were loaded, the components of type `dtype`.

        Raises what `array_of` does, of arrays that do not fit together or are out of bounds.
        """
        components = array_of(arrays, f"{prefix}components", d, k, dtype=dtype)
        rows, columns = components.shape
        mean = array_of(arrays, f"{prefix}mean", rows)
        scale = array_of(arrays, f"{prefix}scale", columns)
        return cls(mean, components.astype(np.float32, copy=False), scale)

    @cached_property
    def _offset(self) -> Floats:
        return self.mean @ self.components

    def _finish(self, projected: Floats) -> Floats:
        projected -= self._offset
        projected /= self.scale
        return projected


def fit_projection(points: Floats, *, dimensions: int, whitening: float = 0) -> Projection:
    """Fit PCA to points (n, d) and keep at most `dimensions` components.

    Each is divided by its standard deviation to the power `whitening`: 0 is plain PCA, and with 1
    all components have the same variance.

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
    return Projection(
        mean,
        np.ascontiguousarray(components, dtype=np.float32),
        (scale**whitening).astype(np.float32),
    )
