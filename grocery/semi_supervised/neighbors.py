"""The nearest neighbours of points, exactly or approximately.

A library finds them (scikit-learn all, FAISS most), in blocks of a fixed size that threads share
out; then they are measured and ordered here. So the bytes of an answer do not depend on the number
of threads. Which of several equally distant points are the last ones is the library's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from grocery.core.errors import DataError, ParamsError
from grocery.core.threads import blocks, cores, thread_map

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.int32]
Found = NDArray[np.int64]

SEARCHES = ("auto", "exact", "approximate")
EXACT_POINTS = 20_000
"""``search="auto"`` is exact up to this many points to search among."""

LISTS = 2
"""Lists of the approximate search, times the square root of the number of points."""
PROBES = 6
"""Lists that a point is compared with."""

_ROWS = 1024  # points of one task
_MEASURED = 2**18  # numbers that are gathered at once: they stay in a core's cache
_SAMPLE = 32  # points a list that k-means sees
_ITERATIONS = 5  # of k-means; more hardly move the recall


def nearest(
    points: Floats, among: Floats, *, n_neighbors: int, search: str = "auto", own: bool = False
) -> tuple[Indices, Floats]:
    """Find the nearest neighbours of each point by Euclidean distance.

    On unit vectors that is also the order of cosine similarity, ``1 - squared distance / 2``.

    Parameters
    ----------
    points
        Points (n, d).
    among
        Points to find neighbours in, shape (m, d).
    n_neighbors
        Neighbours k a point; at least 1, fewer than m.
    search
        "exact" compares each point with all. "approximate" compares it with those in the lists
        nearest to it (an inverted file on k-means; Jégou, Douze & Schmid, "Product quantization for
        nearest neighbor search", IEEE TPAMI 2011, without the quantization), and needs FAISS;
        benchmarks/graph.py measures its recall. "auto" is exact up to `EXACT_POINTS` points in
        `among`.
    own
        `points` is `among`, and a point is not its own neighbour.

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
        When there are no more points than neighbours, when a coordinate is not finite, or when
        FAISS is needed and not installed.
    ParamsError
        When `search` is another word.
    """
    if search not in SEARCHES:
        raise ParamsError(f"search is {search!r}; allowed are {', '.join(SEARCHES)}")
    if len(among) <= n_neighbors:
        raise DataError(
            f"n_neighbors is {n_neighbors}, but there are only {len(among)} points; "
            f"at most {len(among) - 1} is allowed"
        )
    for given in (points, among)[: 1 if own else 2]:
        finite = np.isfinite(given).all(axis=1)
        if not finite.all():
            raise DataError(
                f"the features of point {int(finite.argmin())} hold NaN or infinity; "
                "all must be finite"
            )
    kind = np.result_type(points, among, np.float32)
    if not len(points):
        return np.empty((0, n_neighbors), np.int32), np.empty((0, n_neighbors), kind)
    wanted = n_neighbors + own
    exactly = _exact(among, wanted)
    exact = search == "exact" or (search == "auto" and len(among) <= EXACT_POINTS)
    find = exactly if exact else _approximate(among, wanted)
    found = np.empty((len(points), n_neighbors), np.int32)
    distances = np.empty(found.shape, kind)

    def task(rows: slice) -> None:
        near = find(points[rows])
        short = (near < 0).any(axis=1)  # its lists together held too few
        if short.any():
            near[short] = exactly(points[rows][short])
        if own:
            near = _others(near, np.arange(rows.start, rows.stop))
        found[rows], distances[rows] = _measured(points[rows], among, near)

    with thread_map() as in_threads:
        in_threads(task, blocks(len(points), _ROWS))
    return found, distances


def recall(found: NDArray[np.integer[Any]], exact: NDArray[np.integer[Any]]) -> float:
    """Share of the exact neighbours (n, k) that are among the found ones (n, k)."""
    hits = (found[:, :, None] == exact[:, None, :]).any(axis=1)
    return float(hits.mean())


def _exact(among: Floats, wanted: int) -> Callable[[Floats], Found]:
    search = NearestNeighbors(n_neighbors=wanted, algorithm="brute").fit(among)

    def find(points: Floats) -> Found:
        near: Found = search.kneighbors(points, return_distance=False)
        return near

    return find


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
    lists = min(max(1, int(LISTS * len(among) ** 0.5)), len(among))
    index: Any = faiss.index_factory(among.shape[1], f"IVF{lists},Flat")
    index.cp.seed, index.cp.niter = 0, _ITERATIONS
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, _SAMPLE
    index.train(singles)
    index.add(singles)
    faiss.omp_set_num_threads(1)
    index.nprobe = PROBES

    def find(points: Floats) -> Found:
        faiss.omp_set_num_threads(1)  # in each of our threads, whose blocks have a fixed size
        near: Found = index.search(np.ascontiguousarray(points, dtype=np.float32), wanted)[1]
        return near

    return find


def _others(near: Found, rows: NDArray[np.intp]) -> Found:
    """Neighbours (n, k + 1) without the point itself, or without the last where it is not there."""
    drop = np.where(near == rows[:, None], 1, 0)
    drop[drop.sum(axis=1) == 0, -1] = 1
    others: Found = near[drop == 0].reshape(len(near), -1)
    return others


def _measured(points: Floats, among: Floats, near: Found) -> tuple[Indices, Floats]:
    """Neighbours in order, and their distances, in the precision of the points."""
    count, each = near.shape
    distances = np.empty(near.shape, np.result_type(points, among, np.float32))
    for rows in blocks(count, max(1, _MEASURED // (each * points.shape[1]))):
        apart = points[rows, None] - among[near[rows]]
        np.einsum("nkd,nkd->nk", apart, apart, out=distances[rows])
    order = np.lexsort((near, distances), axis=-1)
    ordered = np.take_along_axis(near, order, axis=1).astype(np.int32)
    return ordered, np.take_along_axis(distances, order, axis=1)
