"""The similarity graph: which images look alike, and how much."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from grocery.errors import DataError

Floats = NDArray[np.float32]

_BLOCK = 256  # rows whose neighbours are held at once


def neighbour_weights(
    points: Floats, among: Floats, *, n_neighbors: int, weight_power: float, own: bool = False
) -> sparse.csr_matrix:
    """Weigh each point's nearest neighbours by cosine similarity to a power.

    Parameters
    ----------
    points
        Unit vectors, shape (n, d).
    among
        Unit vectors to find neighbours in, shape (m, d).
    n_neighbors
        Neighbours a point; at least 1, fewer than m.
    weight_power
        Exponent of the similarity; similarities below zero weigh nothing.
    own
        `points` is `among`, and a point is not its own neighbour.

    Returns
    -------
    Matrix (n, m) with n_neighbors entries a row.

    Raises
    ------
    DataError
        When there are no more points than neighbours.
    """
    if len(among) <= n_neighbors:
        raise DataError(
            f"train.n_neighbors is {n_neighbors}, but there are only {len(among)} training images; "
            f"at most {len(among) - 1} is allowed"
        )
    if not len(points):
        return sparse.csr_matrix((0, len(among)))
    # On unit vectors the Euclidean order is the cosine order.
    search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(among)
    nearest = search.kneighbors(None if own else points, return_distance=False)
    similarity = np.empty(nearest.shape, np.float32)
    for start in range(0, len(points), _BLOCK):
        part = slice(start, start + _BLOCK)
        np.einsum("nd,nkd->nk", points[part], among[nearest[part]], out=similarity[part])
    weights = np.maximum(similarity, 0) ** np.float32(weight_power)
    rows = np.arange(0, nearest.size + 1, n_neighbors)
    return sparse.csr_matrix(
        (weights.ravel().astype(np.float64), nearest.ravel(), rows), (len(points), len(among))
    )


def similarity_graph(points: Floats, *, n_neighbors: int, weight_power: float) -> sparse.csr_matrix:
    """Symmetric graph (n, n): two images are joined when either is a neighbour of the other.

    Raises
    ------
    DataError
        When it would have no edge.
    """
    weights = neighbour_weights(
        points, points, n_neighbors=n_neighbors, weight_power=weight_power, own=True
    )
    graph = weights.maximum(weights.T).tocsr()
    if not graph.sum():
        raise DataError(
            f"no two of the {len(points)} training images have similar features, so there is no "
            "graph; try a smaller featurize.dimensions"
        )
    return graph


def row_normalised(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide each row by its sum; an empty row stays empty."""
    return sparse.diags(_inverse(weights.sum(axis=1))) @ weights


def symmetrically_normalised(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """D^(-1/2) W D^(-1/2) of a symmetric graph W with degrees D."""
    scale = sparse.diags(np.sqrt(_inverse(graph.sum(axis=1))))
    return scale @ graph @ scale


def _inverse(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    flat = np.asarray(sums).ravel()
    return np.divide(1.0, flat, out=np.zeros_like(flat), where=flat > 0)
