"""The similarity graph: which points are near each other, and how much they are alike.

A library finds the neighbours (scikit-learn all, FAISS most), in blocks of a fixed size that
threads share out; then they are measured and ordered here. So the bytes of a graph do not depend on
the number of threads. Which of several equally distant points are the last ones is the library's
choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from sklearn.utils._param_validation import Interval, StrOptions

from grocery.core.errors import DataError
from grocery.core.linear import unit_length
from grocery.core.threads import blocks, cores, thread_map

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int32]
Found = NDArray[np.int64]

EXACT_POINTS = 20_000
"""``neighbor_search="auto"`` is exact up to this many points to search among."""

_LISTS = 2  # of the approximate search, times the square root of the number of points
_PROBES = 6  # lists that a point is compared with
_ROWS = 1024  # points of one task
_MEASURED = 2**18  # numbers that are gathered at once: they stay in a core's cache
_SAMPLE = 32  # points per list that k-means sees
_ITERATIONS = 5  # of k-means; more hardly move the recall


@dataclass(kw_only=True, eq=False, repr=False)
class SimilarityGraph:
    """How points become a graph; the parameters that all estimators on a graph share.

    Parameters
    ----------
    affinity : {"cosine", "rbf", "uniform"}, default="cosine"
        Weight of an edge: cosine similarity to the power `weight_power`, where similarities below
        zero weigh nothing; ``exp(-gamma * squared distance)``; or 1.
    weight_power : float > 0, default=3.0
        For ``affinity="cosine"``.
    gamma : float >= 0, default=5.0
        For ``affinity="rbf"``; in units of one over a squared distance.
    n_neighbors : int >= 1, default=10
        Neighbours of a point, itself not counted; fewer than there are points. Two points are
        joined when either is a neighbour of the other.
    neighbor_search : {"auto", "exact", "approximate"}, default="auto"
        How neighbours are found, see `nearest`.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "affinity": [StrOptions({"cosine", "rbf", "uniform"})],
        "weight_power": [Interval(Real, 0, None, closed="neither")],
        "gamma": [Interval(Real, 0, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "neighbor_search": [StrOptions({"auto", "exact", "approximate"})],
    }

    affinity: str = "cosine"
    weight_power: float = 3.0
    gamma: float = 5.0
    n_neighbors: int = 10
    neighbor_search: str = "auto"

    def graph(self, points: Floats) -> sparse.csr_matrix:
        """The symmetric graph (n, n) of points (n, d), in their precision.

        Raises
        ------
        DataError
            When it would have no edge.
        """
        weights = self.edges(points)
        graph = weights.maximum(weights.T.tocsr())
        if not graph.sum():
            raise DataError(
                f"no two of the {len(points)} training images have similar features, so there is "
                "no graph; try fewer dimensions in featurize or train.gamma"
            )
        return graph

    def edges(self, points: Floats, among: Floats | None = None) -> sparse.csr_matrix:
        """Weights (n, m) of the edges from points (n, d) to their neighbours among others (m, d).

        Without `among` the neighbours are those of `nearest` without it. Each row has `n_neighbors`
        entries.
        """
        if self.affinity == "cosine":
            points = unit_length(points)
            among = among if among is None else unit_length(among)
        indices, distances = nearest(
            points, among, n_neighbors=self.n_neighbors, search=self.neighbor_search
        )
        among = points if among is None else among
        by_column = np.argsort(indices, axis=1)  # the canonical form, which scipy adds up faster
        indices = np.take_along_axis(indices, by_column, axis=1)
        distances = np.take_along_axis(distances, by_column, axis=1)
        number = distances.dtype.type
        weights: Floats = np.ones_like(distances)
        if self.affinity == "rbf":
            weights = np.exp(number(-self.gamma) * distances)
        elif self.affinity == "cosine":
            weights = np.maximum(1 - distances / 2, 0) ** number(self.weight_power)
            # A vector of zeros, of no length at all, is similar to none.
            weights *= (points != 0).any(axis=1)[:, None] & (among != 0).any(axis=1)[indices]
        starts = np.arange(0, indices.size + 1, self.n_neighbors)
        shape = (len(points), len(among))
        return sparse.csr_matrix((weights.ravel(), indices.ravel(), starts), shape)


def row_normalised(weights: sparse.csr_matrix) -> sparse.csr_matrix:
    """Divide each row by its sum; an empty row stays empty."""
    return _scaled(weights, _inverse_sums(weights))


def symmetrically_normalised(graph: sparse.csr_matrix) -> sparse.csr_matrix:
    """D^(-1/2) W D^(-1/2) of a symmetric graph W with degrees D."""
    scale = np.sqrt(_inverse_sums(graph))
    scaled = _scaled(graph, scale)
    scaled.data *= scale[graph.indices]
    return scaled


def _scaled(weights: sparse.csr_matrix, scale: NDArray[np.float64]) -> sparse.csr_matrix:
    """Rows times `scale` (n,), in the precision of the weights, on the same structure."""
    data = weights.data * np.repeat(scale, np.diff(weights.indptr)).astype(weights.dtype)
    return sparse.csr_matrix((data, weights.indices, weights.indptr), weights.shape)


def _inverse_sums(weights: sparse.csr_matrix) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = np.asarray(weights.sum(axis=1, dtype=np.float64)).ravel()
    return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)


def nearest(
    points: Floats, among: Floats | None = None, *, n_neighbors: int, search: str = "auto"
) -> tuple[Indices, Floats]:
    """Find the nearest neighbours of each point by Euclidean distance.

    On unit vectors that is also the order of cosine similarity, ``1 - squared distance / 2``.

    Parameters
    ----------
    points
        Points (n, d); finite.
    among
        Points to find neighbours in, shape (m, d); without it, they are the points themselves, and
        none is its own neighbour.
    n_neighbors
        Neighbours k of a point; at least 1, fewer than m.
    search
        "exact" compares each point with all. "approximate" compares it with those in the lists
        nearest to it (an inverted file on k-means; Jégou, Douze & Schmid, "Product quantization for
        nearest neighbor search", IEEE TPAMI 2011, without the quantization), and needs FAISS;
        benchmarks/graph.py measures its recall. "auto" is exact up to `EXACT_POINTS` points in
        `among`.

    Returns
    -------
    indices
        Rows of `among`, shape (n, k), nearest first, ties by index.
    distances
        Squared Euclidean distances, of the same shape; in single precision unless `points` are in
        double.

    Raises
    ------
    DataError
        When FAISS is needed and not installed.
    """
    own, among = among is None, points if among is None else among
    distances = np.empty((len(points), n_neighbors), np.result_type(points, among, np.float32))
    found = np.empty(distances.shape, np.int32)
    if not len(points):
        return found, distances
    wanted = n_neighbors + own
    brute = NearestNeighbors(n_neighbors=wanted, algorithm="brute").fit(among)
    exactly: Callable[[Floats], Found] = partial(brute.kneighbors, return_distance=False)
    exact = search == "exact" or (search == "auto" and len(among) <= EXACT_POINTS)
    find = exactly if exact else _approximate(among, wanted)

    def task(rows: slice) -> None:
        near = find(points[rows])
        short = (near < 0).any(axis=1)  # its lists together held too few
        if short.any():
            near[short] = exactly(points[rows][short])
        if own:  # drop the point itself, or the last where it is not there
            drop = near == np.arange(rows.start, rows.stop)[:, None]
            drop[~drop.any(axis=1), -1] = True
            near = near[~drop].reshape(len(near), n_neighbors)
        found[rows], distances[rows] = _measured(points[rows], among, near)

    with thread_map() as in_threads:
        in_threads(task, blocks(len(points), _ROWS))
    return found, distances


def _approximate(among: Floats, wanted: int) -> Callable[[Floats], Found]:
    """FAISS's inverted file; fewer than `wanted` neighbours are filled up with -1."""
    try:
        import faiss
    except ImportError:
        raise DataError(
            f"neighbours among {len(among):,} points are searched approximately, which needs the "
            "package faiss-cpu: `make extras`, or set train.neighbor_search to exact"
        ) from None
    faiss.SIMDConfig.set_level(faiss.SIMDLevel_AVX2)  # as grocery.core.pin does with numpy
    # Centres and lists are the same with any number of threads: each is summed up by one of them.
    faiss.omp_set_num_threads(cores())
    singles = np.ascontiguousarray(among, dtype=np.float32)
    lists = min(max(1, int(_LISTS * len(among) ** 0.5)), len(among))
    index: Any = faiss.index_factory(among.shape[1], f"IVF{lists},Flat")
    index.cp.seed, index.cp.niter = 0, _ITERATIONS
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _SAMPLE
    index.train(singles)
    index.add(singles)
    index.nprobe = _PROBES

    def find(points: Floats) -> Found:
        faiss.omp_set_num_threads(1)  # in each of our threads, whose blocks have a fixed size
        near: Found = index.search(np.ascontiguousarray(points, dtype=np.float32), wanted)[1]
        return near

    return find


def _measured(points: Floats, among: Floats, near: Found) -> tuple[Indices, Floats]:
    """Neighbours in order, and their distances, in the precision of the points."""
    distances = np.empty(near.shape, np.result_type(points, among, np.float32))
    for rows in blocks(len(near), max(1, _MEASURED // (near.shape[1] * points.shape[1]))):
        apart = points[rows, None] - among[near[rows]]
        np.einsum("nkd,nkd->nk", apart, apart, out=distances[rows])
    order = np.lexsort((near, distances), axis=-1)
    ordered = np.take_along_axis(near, order, axis=1).astype(np.int32)
    return ordered, np.take_along_axis(distances, order, axis=1)
