import hashlib
import os
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from grocery.core.errors import DataError
from grocery.core.threads import cores
from grocery.features.mixture import fit_mixture
from grocery.semi_supervised import graph as module
from grocery.semi_supervised.graph import SimilarityGraph, nearest
from grocery.semi_supervised.label_propagation import LabelSpreading

Singles = NDArray[np.float32]


def unit(points: NDArray[Any]) -> Singles:
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def clustered(n: int, *, dimensions: int = 32, clusters: int = 60, seed: int = 0) -> Singles:
    """Unit vectors around random centres, with as much noise as there is signal."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(clusters, dimensions)))
    noise = rng.normal(size=(n, dimensions)) / np.sqrt(dimensions)
    return unit(centres[rng.integers(clusters, size=n)] + noise)


def naive(points: NDArray[Any], among: NDArray[Any], count: int, *, own: bool) -> NDArray[np.intp]:
    """Neighbours by a full sort in double precision, ties by index."""
    points, among = points.astype(float), among.astype(float)
    away = ((points[:, None] - among[None]) ** 2).sum(axis=-1)
    if own:
        np.fill_diagonal(away, np.inf)
    return np.argsort(away, axis=1, kind="stable")[:, :count]


def recall(found: NDArray[Any], exact: NDArray[Any]) -> float:
    """Share of the exact neighbours (n, k) that are among the found ones (n, k)."""
    return float((found[:, :, None] == exact[:, None, :]).any(axis=1).mean())


class TestExact:
    def test_as_a_full_sort(self) -> None:
        for points, count in ((clustered(700), 9), (clustered(40), 39)):
            found, distances = nearest(points, n_neighbors=count)
            assert (found == naive(points, points, count, own=True)).all()
            similarity = np.einsum("nd,nkd->nk", points, points[found])
            np.testing.assert_allclose(1 - distances / 2, similarity, atol=1e-6)
        ties = np.array([[0], [1], [-1], [1], [-1], [2]], np.float32)  # which go by index
        assert nearest(ties[:1], ties, n_neighbors=5)[0].tolist() == [[0, 1, 2, 3, 4]]

    def test_points_far_from_the_origin_in_double_precision(self) -> None:
        points = np.random.default_rng(0).normal(size=(400, 8)) + 100
        for some in (points[:50], points[:0]):
            found, distances = nearest(some, points, n_neighbors=5)
            assert found.shape == (len(some), 5)
            assert (found == naive(some, points, 5, own=False)).all()
            assert distances.dtype == np.float64
            expected = ((some[:, None] - points[found]) ** 2).sum(axis=-1)
            np.testing.assert_allclose(distances, expected, rtol=1e-5)


class TestApproximate:
    def test_finds_most_of_the_exact_neighbours(self) -> None:
        """Of the points themselves, and of others among them."""
        points = clustered(5_000)
        found, distances = nearest(points, n_neighbors=10, search="approximate")
        exact, _ = nearest(points, n_neighbors=10, search="exact")
        assert 0.9 < recall(found, exact) < 1
        assert (np.diff(distances, axis=1) >= 0).all()
        assert (found != np.arange(len(points))[:, None]).all()
        assert (np.diff(np.sort(found, axis=1), axis=1) > 0).all()
        others = clustered(5_200)[5_000:]
        found, exact = (
            nearest(others, points, n_neighbors=10, search=search)[0]
            for search in ("approximate", "exact")
        )
        assert recall(found, exact) > 0.9

    def test_lists_shorter_than_the_neighbours_that_are_asked_for(self) -> None:
        points = clustered(600)
        found, _ = nearest(points, n_neighbors=450, search="approximate")
        assert (found == naive(points, points, 450, own=True)).mean() > 0.5
        assert (np.diff(np.sort(found, axis=1), axis=1) > 0).all()

    def test_auto_is_exact_up_to_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "EXACT_POINTS", 2000)
        for count, same, other in ((2001, "approximate", "exact"), (2000, "exact", "approximate")):
            points = clustered(2001)[:count]
            auto, _ = nearest(points, n_neighbors=10)
            assert (auto == nearest(points, n_neighbors=10, search=same)[0]).all()
            assert (auto != nearest(points, n_neighbors=10, search=other)[0]).any()


@pytest.mark.parametrize("search", ["exact", "approximate"])
def test_copies_of_one_point(search: Any) -> None:
    """Whichever copies are found, a point is never its own neighbour."""
    points, copies = clustered(3000), slice(500, 2500)
    points[copies] = points[500]
    found, distances = nearest(points, n_neighbors=5, search=search)
    assert ((found[copies] >= 500) & (found[copies] < 2500)).all()
    assert (distances[copies] == 0).all()
    assert (found != np.arange(3000)[:, None]).all()
    assert (np.diff(np.sort(found, axis=1), axis=1) > 0).all()


def digest() -> str:
    """Of everything that threads share out: neighbours, graph, spread labels, a mixture's fit."""
    points = clustered(3000)  # three blocks
    seeds = np.zeros((3000, 60), np.float32)
    seeds[np.arange(900), np.arange(900) % 60] = 1
    found = hashlib.sha256()
    for search in ("exact", "approximate"):
        graph = SimilarityGraph(neighbor_search=search).graph(points)
        found.update(graph.indices.tobytes() + graph.data.tobytes())
        for residual, distributions in LabelSpreading(max_iter=3).walk(graph, seeds):
            found.update(distributions.tobytes() + str(residual).encode())
    descriptors = np.random.default_rng(0).normal(size=(20_000, 8)).astype(np.float32)
    rng = np.random.default_rng(0)
    mixture = fit_mixture(descriptors, components=8, iterations=3, rng=rng)
    found.update(mixture.means.tobytes() + mixture.variances.tobytes())
    return found.hexdigest()


def test_the_same_bytes_whatever_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for count in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=count: set(range(count)))
        assert cores() == count
        found.add(digest())
    assert len(found) == 1


def test_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # as if it were not installed
    points = clustered(500)
    nearest(points, n_neighbors=3)
    with pytest.raises(DataError, match=r"`make extras`, or set train.neighbor_search to exact"):
        nearest(points, n_neighbors=3, search="approximate")
