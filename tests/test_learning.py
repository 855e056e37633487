from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse
from sklearn.datasets import make_moons
from sklearn.semi_supervised import LabelPropagation, LabelSpreading

from grocery.errors import DataError
from grocery.learning.algorithms import steps
from grocery.learning.dataset import UNLABELED
from grocery.learning.fit_head import calibrate, fit_head
from grocery.learning.graph import similarity_graph
from grocery.learning.head import Head
from grocery.learning.labels import choose_labeled
from grocery.learning.metrics import calibration_error, reliability, summary
from grocery.learning.spreading import certainty, label_propagation, label_spreading
from grocery.params import TrainParams

IDS = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(200)]
LABELS: list[str | None] = [["apple", "pear", None][i % 3] for i in range(200)]

TRAIN = TrainParams(
    algorithm="label_spreading",
    labeled_ratio=0.2,
    label_seed=0,
    n_neighbors=5,
    weight_power=3.0,
    alpha=0.95,
    class_balance=True,
    threshold=0.7,
    max_iter=50,
    tol=0.001,
    C=10.0,
)


class TestLabels:
    def test_draws_are_nested(self) -> None:
        tenth, fifth = (choose_labeled(IDS, LABELS, ratio=r, seed=0) for r in (0.1, 0.2))
        assert (tenth <= fifth).all()
        assert tenth.sum() < fifth.sum()

    def test_each_class_keeps_its_share(self) -> None:
        chosen = choose_labeled(IDS, LABELS, ratio=0.3, seed=0)
        for name in ("apple", "pear"):
            of_class = np.array([label == name for label in LABELS])
            assert chosen[of_class].sum() == round(0.3 * of_class.sum())

    def test_at_least_one_a_class(self) -> None:
        assert choose_labeled(IDS, LABELS, ratio=1e-6, seed=0).sum() == 2

    def test_images_without_a_label_are_never_chosen(self) -> None:
        chosen = choose_labeled(IDS, LABELS, ratio=1.0, seed=0)
        assert [label is not None for label in LABELS] == chosen.tolist()

    def test_another_seed_is_another_draw(self) -> None:
        first, second = (choose_labeled(IDS, LABELS, ratio=0.2, seed=s) for s in (0, 1))
        assert (first != second).any()

    def test_the_order_of_the_images_does_not_matter(self) -> None:
        order = np.random.default_rng(0).permutation(len(IDS))
        shuffled = choose_labeled(
            [IDS[i] for i in order], [LABELS[i] for i in order], ratio=0.2, seed=0
        )
        assert (shuffled == choose_labeled(IDS, LABELS, ratio=0.2, seed=0)[order]).all()


def knn_kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Dense RBF kernel: the same weights for scikit-learn's estimators and for ours."""
    return np.exp(-10 * ((x[:, None] - y[None]) ** 2).sum(-1))


class TestSpreading:
    """On one graph, the walks are scikit-learn's."""

    points, truth = make_moons(120, noise=0.05, random_state=0)
    known = np.where(np.arange(120) < 6, truth, UNLABELED)
    seeds = np.eye(2)[np.maximum(known, 0)] * (known != UNLABELED)[:, None]

    def test_spreading_as_scikit_learn(self) -> None:
        graph = sparse.csr_matrix(knn_kernel(self.points, self.points) - np.eye(120))
        *_, last = label_spreading(graph, self.seeds, alpha=0.8, max_iter=200, tol=1e-9)
        theirs = LabelSpreading(kernel=knn_kernel, alpha=0.8, max_iter=200, tol=1e-9)
        theirs.fit(self.points, self.known)
        np.testing.assert_allclose(last.distributions, theirs.label_distributions_, atol=1e-6)

    def test_propagation_as_scikit_learn(self) -> None:
        graph = sparse.csr_matrix(knn_kernel(self.points, self.points))
        *_, last = label_propagation(graph, self.seeds, max_iter=3000, tol=1e-12)
        theirs = LabelPropagation(kernel=knn_kernel, max_iter=3000, tol=1e-12)
        theirs.fit(self.points, self.known)
        np.testing.assert_allclose(last.distributions, theirs.label_distributions_, atol=1e-4)

    def test_an_island_stays_unlabelled_and_weighs_nothing(self) -> None:
        graph = sparse.csr_matrix(np.kron(np.eye(2), np.ones((2, 2)) - np.eye(2)))
        seeds = np.array([[1.0, 0], [0, 0], [0, 0], [0, 0]])
        *_, last = label_spreading(graph, seeds, alpha=0.9, max_iter=50, tol=0)
        assert last.distributions[2:].sum() == 0
        assert certainty(last.distributions).tolist() == [1, 1, 0, 0]

    def test_certainty_is_one_minus_normalised_entropy(self) -> None:
        given = np.array([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0]])
        np.testing.assert_allclose(certainty(given), [1, 0, 0.5], atol=1e-12)


def blobs(n: int = 300) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Three classes of three modes each, on the unit sphere."""
    rng = np.random.default_rng(0)
    modes = rng.normal(size=(9, 16))
    which = rng.integers(9, size=n)
    points = modes[which] + 0.35 * rng.normal(size=(n, 16))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points.astype(np.float32), which % 3


class TestAlgorithms:
    @pytest.mark.parametrize(
        "algorithm", ["supervised", "label_propagation", "label_spreading", "self_training"]
    )
    def test_known_labels_are_kept_and_validation_is_scored(self, algorithm: str) -> None:
        points, truth = blobs()
        known = np.where(np.arange(300) < 30, truth, UNLABELED)
        params = TRAIN.model_copy(update={"algorithm": algorithm})
        *_, last = steps(points, known, points[250:], classes=3, params=params)
        assert (last.labels[:30] == truth[:30]).all()
        assert last.validation.shape == (50, 3)
        if algorithm == "supervised":
            assert (last.labels[30:] == UNLABELED).all()
        else:
            assert (last.labels[30:] != UNLABELED).any()

    def test_the_graph_labels_more_correctly_than_a_head_on_few_labels(self) -> None:
        plane, truth = make_moons(300, noise=0.05, random_state=0)
        points = np.column_stack([plane, np.ones(300)]).astype(np.float32)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        known = np.where(np.arange(300) < 8, truth, UNLABELED)
        params = TRAIN.model_copy(update={"n_neighbors": 10})
        *_, last = steps(points, known, points[:1], classes=2, params=params)
        head = fit_head(points[:8], truth[:8], classes=2, C=1000.0)
        by_head = (head.predict_proba(points).argmax(axis=1) == truth)[8:].mean()
        assert (last.labels == truth)[8:].mean() > by_head + 0.05

    def test_more_neighbours_than_points(self) -> None:
        points, truth = blobs(10)
        params = TRAIN.model_copy(update={"n_neighbors": 10})
        with pytest.raises(DataError, match="at most 9 is allowed"):
            list(steps(points, truth, points, classes=3, params=params))

    def test_nothing_to_validate_on(self) -> None:
        points, truth = blobs()
        known = np.where(np.arange(300) < 30, truth, UNLABELED)
        *_, last = steps(points, known, points[:0], classes=3, params=TRAIN)
        assert last.validation.shape == (0, 3)

    def test_a_class_without_a_label(self) -> None:
        points, truth = blobs()
        with pytest.raises(DataError, match="1 of 4 classes"):
            fit_head(points, truth, classes=4, C=1.0)


class TestGraph:
    def test_symmetric_without_loops(self) -> None:
        graph = similarity_graph(blobs()[0], n_neighbors=5, weight_power=3.0)
        assert abs(graph - graph.T).max() == 0
        assert graph.diagonal().max() == 0
        assert (np.diff(graph.indptr) >= 5).all()

    def test_features_that_resemble_nothing(self) -> None:
        with pytest.raises(DataError, match="no two of the 20 training images"):
            similarity_graph(np.eye(20, dtype=np.float32), n_neighbors=3, weight_power=1.0)


class TestHead:
    def test_two_classes(self) -> None:
        points, truth = blobs()
        two = truth < 2
        head = fit_head(points[two], truth[two], classes=2, C=10.0)
        assert head.coefficients.shape == (2, 16)
        probabilities = head.predict_proba(points[two])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert (probabilities.argmax(axis=1) == truth[two]).mean() > 0.9

    def test_calibration_finds_the_temperature(self) -> None:
        rng = np.random.default_rng(0)
        features = rng.normal(size=(4000, 3)).astype(np.float32)
        right = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        probabilities = right.predict_proba(features)
        labels = np.array([rng.choice(3, p=row / row.sum()) for row in probabilities.astype(float)])
        overconfident = Head(4 * np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        mended = calibrate(overconfident, features, labels)
        assert mended.temperature == pytest.approx(4, rel=0.1)

    def test_nothing_to_calibrate_on(self) -> None:
        head = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        assert calibrate(head, np.empty((0, 3), np.float32), np.empty(0, np.int64)) == head


class TestMetrics:
    probabilities = np.array(
        [[0.9, 0.1, 0], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], np.float32
    )
    labels = np.array([0, 1, 1, 2])

    def test_summary(self) -> None:
        found = summary(self.probabilities, self.labels, coarse=["x", "x", "y"], bins=10)
        assert found["accuracy"] == 0.75
        assert found["coarse_accuracy"] == 1
        assert found["top5_accuracy"] == 1
        assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)

    def test_calibration_error_by_hand(self) -> None:
        bins = reliability(self.probabilities, self.labels, bins=10)
        assert calibration_error(bins) == pytest.approx((0.1 + 0.6 + 0.5 + 0.2) / 4, abs=1e-6)

    def test_no_coarse_accuracy_without_coarse_classes(self) -> None:
        found = summary(self.probabilities, self.labels, coarse=["x", None, "y"], bins=10)
        assert "coarse_accuracy" not in found
