"""The similarity graph: which images look alike, and how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from grocery.core.errors import DataError, ParamsError
from grocery.semi_supervised.neighbors import Floats, nearest

AFFINITIES = ("cosine", "rbf", "uniform")


@dataclass(frozen=True)
class Affinity:
    """How much an edge between two near points x and y weighs.

    Attributes
    ----------
    kind
        "cosine": their cosine similarity to the power `weight_power`, and nothing below zero; the
        points must be unit vectors. "rbf": exp(-gamma |x - y|^2). "uniform": 1.
    weight_power
        More than 0.
    gamma
        At least 0, in units of one over a squared distance.
    """

    kind: str = "cosine"
    weight_power: float = 3.0
    gamma: float = 5.0

    def __post_init__(self) -> None:
        if self.kind not in AFFINITIES:
            raise ParamsError(f"affinity is {self.kind!r}; allowed are cosine, rbf and uniform")

    def weights(self, distances: Floats) -> Floats:
        """Weights of edges with these squared distances, of the same shape and precision."""
        number = distances.dtype.type
        if self.kind == "cosine":
            return np.maximum(1 - distances / 2, 0) ** number(self.weight_power)
        if self.kind == "rbf":
            return np.exp(number(-self.gamma) * distances)
        return np.ones_like(distances)


def neighbour_weights(
    points: Floats,
    among: Floats,
    *,
    n_neighbors: int,
    affinity: Affinity,
    search: str = "auto",
    own: bool = False,
) -> sparse.csr_matrix:
    """Weigh each point's nearest neighbours.

    Parameters
    ----------
    points
        Shape (n, d); unit vectors where the affinity is "cosine".
    among
        Points to find neighbours in, shape (m, d); unit vectors likewise.
    n_neighbors
        Neighbours a point; at least 1, fewer than m.
    affinity
        What a neighbour weighs.
    search
        "auto", "exact" or "approximate", see `nearest`.
    own
        `points` is `among`, and a point is not its own neighbour.

    Returns
    -------
    Matrix (n, m) with n_neighbors entries a row, in the precision of the points.

    Raises
    ------
    DataError
        When there are no more points than neighbours, or when a coordinate is not finite.
    """
    indices, distances = nearest(points, among, n_neighbors=n_neighbors, search=search, own=own)
    by_column = np.argsort(indices, axis=1)  # the canonical form, which scipy adds up faster
    weights = affinity.weights(np.take_along_axis(distances, by_column, axis=1))
    indices = np.take_along_axis(indices, by_column, axis=1)
    if affinity.kind == "cosine":  # a vector of zeros, of no length at all, is similar to none
        weights *= _nonzero(points)[:, None] & _nonzero(among)[indices]
    starts = np.arange(0, indices.size + 1, n_neighbors)
    return sparse.csr_matrix((weights.ravel(), indices.ravel(), starts), (len(points), len(among)))


def similarity_graph(
    points: Floats, *, n_neighbors: int, affinity: Affinity, search: str = "auto"
) -> sparse.csr_matrix:
    """Symmetric graph (n, n): two images are joined when either is a neighbour of the other.

    Parameters and errors are those of `neighbour_weights`, and:

    Raises
    ------
    DataError
        When the graph would have no edge.
    """
    weights = neighbour_weights(
        points, points, n_neighbors=n_neighbors, affinity=affinity, search=search, own=True
    )
    graph = weights.maximum(weights.T.tocsr())
    if not graph.sum():
        raise DataError(
            f"no two of the {len(points)} training images have similar features, so there is no "
            "graph; try a smaller featurize.dimensions or train.gamma"
        )
    return graph


def _nonzero(points: Floats) -> NDArray[np.bool_]:
    return np.asarray((points != 0).any(axis=1))


def row_normalised(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide each row by its sum; an empty row stays empty."""
    return _scaled(weights, _inverse(_sums(weights)))


def symmetrically_normalised(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """D^(-1/2) W D^(-1/2) of a symmetric graph W with degrees D."""
    scale = np.sqrt(_inverse(_sums(graph)))
    scaled = _scaled(graph, scale)
    scaled.data *= scale[graph.indices]
    return scaled


def _scaled(weights: sparse.csr_matrix, scale: NDArray[np.float64]) -> sparse.csr_matrix:
    """Rows times `scale` (n,), in the precision of the weights, on the same structure."""
    data = weights.data * np.repeat(scale, np.diff(weights.indptr)).astype(weights.dtype)
    return sparse.csr_matrix((data, weights.indices, weights.indptr), weights.shape)


def _sums(weights: sparse.csr_matrix) -> NDArray[np.float64]:
    sums: NDArray[Any] = np.asarray(weights.sum(axis=1, dtype=np.float64))
    return sums.ravel()


def _inverse(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)
