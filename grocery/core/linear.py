"""Products and norms whose bytes do not depend on how many rows there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_ROWS = 8  # with up to this many rows, the pinned kernels treat all of them alike


def rowwise_product(points: Floats, matrix: Floats) -> Floats:
    """``points @ matrix`` for points (n, d), each row with the same bytes whatever n is.

    BLAS takes another path for one row than for many, and another for the last rows of a product.
    Here each product has `_ROWS` rows, the last ones filled up with zeros.
    """
    product = np.empty((len(points), matrix.shape[1]), np.float32)
    block = np.zeros((_ROWS, points.shape[1]), np.float32)
    for start in range(0, len(points), _ROWS):
        rows = points[start : start + _ROWS]
        block[: len(rows)] = rows
        product[start : start + len(rows)] = (block @ matrix)[: len(rows)]
    return product


def unit_length(points: Floats) -> Floats:
    """Scale each row of points (n, d) to Euclidean length one; a zero row stays zero."""
    norms = np.sqrt((points * points).sum(axis=1, keepdims=True))
    scaled: Floats = points / np.maximum(norms, np.float32(1e-12))
    return scaled
