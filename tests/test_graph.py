from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

from grocery.core.errors import DataError
from grocery.semi_supervised.graph import SimilarityGraph, symmetrically_normalised
from grocery.semi_supervised.label_propagation import LabelPropagation, LabelSpreading, certainty
from test_neighbors import clustered, naive

POINTS = clustered(600, dimensions=16, clusters=9)
POINTS.flags.writeable = False


def dense(graph: sparse.csr_matrix) -> NDArray[np.float64]:
    return np.asarray(graph.toarray(), np.float64)


class TestAffinity:
    @pytest.mark.parametrize("power", [3.0, 1.5])
    def test_cosine(self, power: float) -> None:
        """Whatever the length of the points; below zero it weighs nothing."""
        points = POINTS[:60] * np.arange(1, 61, dtype=np.float32)[:, None]
        weights = dense(SimilarityGraph(n_neighbors=59, weight_power=power).edges(points))
        expected = np.maximum(POINTS[:60] @ POINTS[:60].T, 0) ** power
        np.fill_diagonal(expected, 0)
        assert (expected == 0).sum() > 600
        np.testing.assert_allclose(weights, expected, atol=1e-5)

    def test_zeros_resemble_nothing(self) -> None:
        points = POINTS.copy()
        points[:7] = 0
        graph = SimilarityGraph(n_neighbors=5).graph(points)
        assert graph[:7].sum() == 0
        assert (graph[7:].sum(axis=1) > 0).all()
        with pytest.raises(DataError, match="no two of the 20 training images"):
            SimilarityGraph(n_neighbors=3).graph(np.eye(20, dtype=np.float32))

    def test_rbf_and_uniform_on_points_of_any_length(self) -> None:
        points = np.random.default_rng(0).normal(size=(200, 4)) * 3 + 5
        nearest = naive(points, points, 6, own=True)
        for kind in ("rbf", "uniform"):
            weights = dense(SimilarityGraph(affinity=kind, gamma=0.2, n_neighbors=6).edges(points))
            expected = np.zeros((200, 200))
            for row, columns in enumerate(nearest):
                distance = ((points[row] - points[columns]) ** 2).sum(axis=1)
                expected[row, columns] = np.exp(-0.2 * distance) if kind == "rbf" else 1
            np.testing.assert_allclose(weights, expected, rtol=1e-10)


@pytest.mark.parametrize("kind", ["cosine", "rbf", "uniform"])
def test_joined_when_either_is_a_neighbour_of_the_other(kind: str) -> None:
    joined = np.zeros((600, 600), bool)
    joined[np.arange(600)[:, None], naive(POINTS, POINTS, 5, own=True)] = True
    graph = SimilarityGraph(n_neighbors=5, affinity=kind).graph(POINTS)
    assert ((dense(graph) > 0) == (joined | joined.T)).all()
    assert abs(graph - graph.T).max() == 0
    assert graph.has_canonical_format


def spreading(*, tol: float = 0, **options: Any) -> LabelSpreading:
    """Without a balance of classes, so that it starts with the seeds as they are."""
    return LabelSpreading(class_balance=False, tol=tol, **options)


class TestWalk:
    graph = SimilarityGraph(n_neighbors=8).graph(POINTS.astype(np.float64))
    seeds: NDArray[Any] = np.eye(3)[np.arange(600) % 3] * (np.arange(600) < 30)[:, None]

    @pytest.mark.parametrize(("precision", "atol"), [(np.float64, 1e-10), (np.float32, 1e-4)])
    def test_it_ends_in_the_solution_of_the_equations(self, precision: Any, atol: float) -> None:
        """Spreading in the closed form, propagation in the harmonic function."""
        seeds = self.seeds.astype(precision)
        *_, (_, spread) = spreading(alpha=0.9, max_iter=300).walk(self.graph, seeds)
        *_, (_, propagated) = LabelPropagation(max_iter=2000, tol=0).walk(self.graph, seeds)
        assert spread.dtype == propagated.dtype == precision

        matrix = dense(self.graph)
        degrees = matrix.sum(axis=1)
        symmetric = matrix / np.sqrt(degrees[:, None] * degrees)
        mass = np.linalg.solve(np.eye(600) - 0.9 * symmetric, self.seeds)
        expected = mass / mass.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(spread, expected, atol=atol / 10)

        transition = matrix / degrees[:, None]
        known, unknown = slice(0, 30), slice(30, None)
        expected = np.linalg.solve(
            np.eye(570) - transition[unknown, unknown],
            transition[unknown, known] @ self.seeds[known],
        )
        assert (propagated[known] == seeds[known]).all()
        np.testing.assert_allclose(propagated[unknown], expected, atol=atol)

    def test_it_stops_when_the_mean_move_of_a_point_is_small(self) -> None:
        for estimator in (spreading(alpha=0.5, tol=1e-6), LabelPropagation(tol=1e-2)):
            steps = list(estimator.walk(self.graph, self.seeds))
            before, again = self.seeds, estimator.walk(self.graph, self.seeds)
            # What was given out is not written to afterwards.
            for (residual, kept), (_, now) in zip(steps, again, strict=True):
                assert (kept == now).all()
                assert residual == pytest.approx(np.abs(kept - before).sum() / 600, rel=1e-9)
                before = kept
            assert 5 < len(steps) < 100
            assert steps[-1][0] < estimator.tol <= steps[-2][0]

    def test_single_precision_reaches_points_far_away(self) -> None:
        """Eighty steps on a chain leave less mass than single precision has numbers for."""
        chain = sparse.diags([np.ones(199), np.ones(199)], [-1, 1]).tocsr()
        seeds = np.zeros((200, 2), np.float32)
        seeds[0, 0] = 1e-3
        *_, (_, last) = spreading(alpha=0.5, max_iter=190).walk(chain, seeds)
        sums = last.sum(axis=1)
        np.testing.assert_allclose(sums[:80], 1, atol=1e-6)
        # Further on there is nothing, rather than noise.
        assert ((np.abs(sums - 1) < 1e-3) | (sums == 0)).all()
        assert sums[-1] == 0

    def test_blocks_of_rows_do_not_show(self) -> None:
        """More points than a task has rows, against scipy's own product."""
        points = clustered(9000)
        graph = SimilarityGraph(n_neighbors=5).graph(points)
        seeds = np.zeros((9000, 60))
        seeds[np.arange(900), np.arange(900) % 60] = 1
        ((_, found),) = spreading(alpha=0.9, max_iter=1).walk(graph, seeds)
        mass = 0.9 * (symmetrically_normalised(graph) @ seeds) + 0.1 * seeds
        sums = mass.sum(axis=1, keepdims=True)
        expected = np.divide(mass, sums, out=np.zeros_like(mass), where=sums > 0)
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_certainty_is_one_minus_normalised_entropy(self) -> None:
        given = np.array([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0] * 4])
        np.testing.assert_allclose(certainty(given), [1, 0, 0.5, 0], atol=1e-12)
