from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import binom
from sklearn import semi_supervised
from sklearn.datasets import make_moons
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from conftest import ROOT
from grocery.classifier.dataset import UNLABELED
from grocery.classifier.fit_head import calibrate, fit_head, gains_by_scaling
from grocery.classifier.head import Head
from grocery.classifier.labels import choose_labeled, labels_used
from grocery.core.errors import DataError
from grocery.core.params import TrainParams
from grocery.evaluation.metrics import calibration_error, reliability, summary
from grocery.features.fit_encoder import fit_sample
from grocery.semi_supervised.algorithms import make_estimator
from grocery.semi_supervised.estimators import SemiSupervisedClassifier
from grocery.semi_supervised.graph import Affinity, similarity_graph
from grocery.semi_supervised.graph_estimators import LabelPropagation, LabelSpreading
from grocery.semi_supervised.self_training import SelfTraining
from grocery.semi_supervised.spreading import certainty, label_propagation, label_spreading
from grocery.settings import load
from grocery.shards import IMAGE_SCHEMA, feature_table, shard_name, write_table
from stages import train

IDS = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(200)]
LABELS: list[str | None] = [["apple", "pear", None][i % 3] for i in range(200)]

TRAIN = TrainParams(
    algorithm="label_spreading",
    labeled_ratio=0.2,
    label_draw="stratified",
    label_seed=0,
    n_neighbors=5,
    neighbor_search="auto",
    affinity="cosine",
    weight_power=3.0,
    gamma=5.0,
    alpha=0.95,
    class_balance=True,
    threshold=0.7,
    max_iter=50,
    tol=0.001,
    C=10.0,
    calibration_level=0.95,
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

    def test_by_chance_the_share_is_of_all_images_whatever_their_classes(self) -> None:
        chosen = choose_labeled(IDS, LABELS, ratio=0.2, seed=0, stratified=False)
        labelled = np.array([label is not None for label in LABELS])
        assert chosen.sum() == round(0.2 * labelled.sum())
        assert not chosen[~labelled].any()
        alone = np.flatnonzero(labelled & ~chosen)[0]  # the only image of its class
        rare = ["rare" if i == alone else label for i, label in enumerate(LABELS)]
        again = choose_labeled(IDS, rare, ratio=0.2, seed=0, stratified=False)
        assert (again == chosen).all()
        assert choose_labeled(IDS, rare, ratio=0.2, seed=0)[alone]

    @pytest.mark.parametrize("stratified", [True, False])
    def test_the_encoders_sample_is_another_draw(self, tmp_path: Path, stratified: bool) -> None:
        """Of the same images by the same seed, and yet half of it is labelled where half are."""
        write_shard(tmp_path, ["apple"] * 200, np.zeros((200, 2), np.float32))
        params = load(ROOT / "params.yaml").featurize.model_copy(update={"fit_images": 100})
        sample = fit_sample([tmp_path / "shards" / shard_name(0, 1)], params)
        chosen = choose_labeled(IDS, ["apple"] * 200, ratio=0.5, seed=0, stratified=stratified)
        assert params.seed == 0
        assert len(sample) == chosen.sum() == 100
        # Hypergeometric: 50, with a standard deviation of 3.5.
        assert 36 <= len(sample & {IDS[i] for i in np.flatnonzero(chosen)}) <= 64

    def test_all_that_were_used(self) -> None:
        """Validation labels are used too; what has no label costs none."""
        validation = np.array([0, 1, UNLABELED, 1])
        assert labels_used(np.array([True, False, True, True]), validation) == 6

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
        theirs = semi_supervised.LabelSpreading(
            kernel=knn_kernel, alpha=0.8, max_iter=200, tol=1e-9
        )
        theirs.fit(self.points, self.known)
        np.testing.assert_allclose(last.distributions, theirs.label_distributions_, atol=1e-6)

    def test_propagation_as_scikit_learn(self) -> None:
        graph = sparse.csr_matrix(knn_kernel(self.points, self.points))
        *_, last = label_propagation(graph, self.seeds, max_iter=3000, tol=1e-12)
        theirs = semi_supervised.LabelPropagation(kernel=knn_kernel, max_iter=3000, tol=1e-12)
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
        *_, last = make_estimator(params, standardize=False).iter_fit(points, known, points[250:])
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
        *_, last = make_estimator(params, standardize=False).iter_fit(points, known)
        head = fit_head(points[:8], truth[:8], classes=2, C=1000.0)
        by_head = (head.predict_proba(points).argmax(axis=1) == truth)[8:].mean()
        assert (last.labels == truth)[8:].mean() > by_head + 0.05

    @pytest.mark.parametrize(
        "algorithm", ["supervised", "label_propagation", "label_spreading", "self_training"]
    )
    @pytest.mark.parametrize("labelled", [2, 3])
    def test_a_class_without_a_label_is_never_predicted(
        self, algorithm: str, labelled: int
    ) -> None:
        """And the others as they would be without it."""
        points, truth = blobs()
        names = np.array([0, 2, 3])[truth]  # of the classes 0 to 4
        known = np.where((np.arange(300) < 90) & (truth < labelled), names, UNLABELED)
        params = TRAIN.model_copy(update={"algorithm": algorithm})
        estimator = make_estimator(params, standardize=False)
        *_, last = estimator.iter_fit(points, known, points[250:], classes=np.arange(5))
        taught = [0, 2, 3][:labelled]
        assert set(last.labels.tolist()) <= {*taught, UNLABELED}
        assert last.validation.shape == (50, 5)
        head = calibrate(estimator.head_, points[250:], names[250:], level=0.95)
        assert set(head.predict_proba(points).argmax(axis=1).tolist()) == set(taught)

        without = make_estimator(params, standardize=False)
        *_, other = without.iter_fit(points, known, points[250:])
        assert (estimator.transduction_ == without.transduction_).all()
        assert (
            (estimator.classes_[last.validation.argmax(axis=1)]).tolist()
            == (without.classes_[other.validation.argmax(axis=1)]).tolist()
        )

    def test_a_label_that_is_no_class(self) -> None:
        points, truth = blobs()
        with pytest.raises(ValueError, match="not among `classes`"):
            make_estimator(TRAIN, standardize=False).iter_fit(points, truth, classes=[0, 1])

    def test_a_head_of_one_class(self) -> None:
        points, truth = blobs()
        with pytest.raises(DataError, match="fewer than two classes"):
            fit_head(points[truth == 1], truth[truth == 1], classes=3, C=1.0)

    @pytest.mark.parametrize(
        ("algorithm", "changes", "expected"),
        [
            ("supervised", {"C": 2.0}, SelfTraining(max_iter=0, C=2.0)),
            (
                "self_training",
                {"threshold": 0.6},
                SelfTraining(threshold=0.6, max_iter=50, C=10.0),
            ),
            (
                "label_propagation",
                {"affinity": "rbf", "gamma": 2.0, "neighbor_search": "exact", "tol": 0.1},
                LabelPropagation(
                    affinity="rbf",
                    gamma=2.0,
                    n_neighbors=5,
                    neighbor_search="exact",
                    max_iter=50,
                    tol=0.1,
                ),
            ),
            (
                "label_spreading",
                {"alpha": 0.5, "class_balance": False, "weight_power": 1.0},
                LabelSpreading(
                    n_neighbors=5, alpha=0.5, class_balance=False, weight_power=1.0, max_iter=50
                ),
            ),
        ],
    )
    def test_params_name_an_estimator(
        self, algorithm: str, changes: dict[str, Any], expected: SemiSupervisedClassifier
    ) -> None:
        params = TRAIN.model_copy(update={"algorithm": algorithm, **changes})
        made = make_estimator(params, standardize=False)
        assert type(made) is type(expected)
        assert made.get_params() == expected.get_params()


def write_shard(root: Path, labels: Sequence[str | None], features: NDArray[np.float32]) -> None:
    """One shard of images that all train, and their features."""
    ids = IDS[: len(labels)]
    columns = {
        "image_id": ids,
        "path": [f"{i}.jpg" for i in ids],
        "label": list(labels),
        "coarse": [None] * len(ids),
        "split": ["train"] * len(ids),
        "phash": [""] * len(ids),
        "image": [b""] * len(ids),
    }
    for folder, table in (
        ("shards", pa.table(columns, schema=IMAGE_SCHEMA)),
        ("features", feature_table(ids, features)),
    ):
        (root / folder).mkdir()
        write_table(root / folder / shard_name(0, 1), table)


class TestTrainingSet:
    """What cannot be learned from, as the train stage says it."""

    points, truth = blobs(60)
    names: ClassVar = [f"class {i}" for i in truth]

    def refusal(self, root: Path, labels: Sequence[str | None], **changes: Any) -> str:
        points = self.points[: len(labels)].copy()
        points[0, 0] = changes.pop("first", points[0, 0])
        write_shard(root, labels, points)
        with pytest.raises(DataError) as error:
            train.run(
                TRAIN.model_copy(update=changes),
                shards=root / "shards",
                features=root / "features",
                classifier=root / "classifier",
                metrics=root / "train.json",
                on_step=lambda values: None,
            )
        assert not (root / "classifier").exists()
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_a_feature_that_is_no_number(self, tmp_path: Path) -> None:
        said = self.refusal(tmp_path, self.names, first=np.nan)
        assert said == f"{tmp_path / 'features'} holds a feature that is not a finite number"

    @pytest.mark.parametrize("algorithm", ["label_propagation", "label_spreading"])
    def test_no_more_images_than_neighbours(self, tmp_path: Path, algorithm: str) -> None:
        said = self.refusal(tmp_path, self.names, algorithm=algorithm, n_neighbors=60)
        assert said == (
            "train.n_neighbors is 60, but there are only 60 training images; at most 59 is allowed"
        )

    @pytest.mark.parametrize("algorithm", ["supervised", "label_spreading", "self_training"])
    def test_no_label_at_all(self, tmp_path: Path, algorithm: str) -> None:
        said = self.refusal(tmp_path, [None] * 60, algorithm=algorithm)
        assert said == "none of the 60 training images has a label; label some of each class"

    @pytest.mark.parametrize("algorithm", ["supervised", "label_spreading", "self_training"])
    def test_one_class_only(self, tmp_path: Path, algorithm: str) -> None:
        said = self.refusal(tmp_path, ["apple"] * 30 + [None] * 30, algorithm=algorithm)
        assert said == (
            "the labelled training images have one class only; a classifier needs at least two"
        )


class TestGraph:
    def test_symmetric_without_loops(self) -> None:
        graph = similarity_graph(blobs()[0], n_neighbors=5, affinity=Affinity())
        assert abs(graph - graph.T).max() == 0
        assert graph.diagonal().max() == 0
        assert (np.diff(graph.indptr) >= 5).all()

    def test_features_that_resemble_nothing(self) -> None:
        with pytest.raises(DataError, match="no two of the 20 training images"):
            similarity_graph(np.eye(20, dtype=np.float32), n_neighbors=3, affinity=Affinity())


class TestHead:
    def test_two_classes(self) -> None:
        points, truth = blobs()
        two = truth < 2
        head = fit_head(points[two], truth[two], classes=2, C=10.0)
        assert head.coefficients.shape == (2, 16)
        probabilities = head.predict_proba(points[two])
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert (probabilities.argmax(axis=1) == truth[two]).mean() > 0.9

    @pytest.mark.filterwarnings("error")
    def test_one_label_a_class(self) -> None:
        """scikit-learn would take it for a regression, and warn."""
        assert fit_head(np.eye(30, dtype=np.float32), np.arange(30), classes=30, C=10.0)

    def test_a_constant_feature_is_left_alone(self) -> None:
        """0.1 in double precision has a deviation that is all rounding."""
        points, truth = blobs()
        constant = np.full((len(points), 1), 0.1)
        with_it = np.hstack([points.astype(float), constant])
        head = fit_head(with_it, truth, classes=truth.max() + 1, C=10.0, standardize=True)
        accuracy = (head.predict_proba(with_it).argmax(axis=1) == truth).mean()
        plain = fit_head(points, truth, classes=truth.max() + 1, C=10.0, standardize=True)
        assert accuracy >= (plain.predict_proba(points).argmax(axis=1) == truth).mean() - 0.01

    def test_scaling_where_it_gains(self) -> None:
        rng = np.random.default_rng(0)
        truth = np.arange(600) % 3
        signal = 3 * np.eye(3)[truth] + rng.normal(size=(600, 3))
        noise = rng.normal(size=(600, 60))
        for size, gains in ((100, True), (0.01, False)):
            points = np.hstack([signal, size * noise]).astype(np.float32)
            few = points[:30], truth[:30]
            assert gains_by_scaling(*few, points[30:], truth[30:], classes=3, C=10.0) is gains
            assert not gains_by_scaling(*few, points[:0], truth[:0], classes=3, C=10.0)

    def test_standardised_is_regularised_as_standard_scores(self) -> None:
        points, truth = blobs()
        points = points * np.geomspace(1, 100, points.shape[1], dtype=np.float32)
        head = fit_head(points, truth, classes=truth.max() + 1, C=10.0, standardize=True)
        peer = make_pipeline(
            StandardScaler(with_mean=False),
            LogisticRegression(C=10.0 / points.shape[1], max_iter=2000, tol=1e-6),
        ).fit(points, truth)
        np.testing.assert_allclose(
            head.predict_proba(points), peer.predict_proba(points), atol=1e-2
        )

    def test_calibration_finds_the_temperature(self) -> None:
        rng = np.random.default_rng(0)
        features = rng.normal(size=(4000, 3)).astype(np.float32)
        right = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        probabilities = right.predict_proba(features)
        labels = np.array([rng.choice(3, p=row / row.sum()) for row in probabilities.astype(float)])
        overconfident = Head(4 * np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        mended = calibrate(overconfident, features, labels, level=0.5)
        assert mended.temperature == pytest.approx(4, rel=0.1)
        assert mended.smoothing == pytest.approx(0, abs=0.03)

    def test_calibration_finds_the_smoothing(self) -> None:
        """Of blind mistakes, a tenth of the images, the logits say nothing."""
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 3, 4000)
        features = np.eye(3, dtype=np.float32)[labels] * 20
        blind = rng.random(4000) < 0.1
        labels[blind] = rng.integers(0, 3, blind.sum())
        head = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        assert calibrate(head, features, labels, level=0.5).smoothing == pytest.approx(
            0.1, abs=0.02
        )

    @pytest.mark.parametrize("images", [40, 400, 4000])
    def test_confidence_is_what_the_images_prove(self, images: int) -> None:
        """The mean confidence is the exact lower bound: a binomial test would not refuse it."""
        rng = np.random.default_rng(images)
        labels = rng.integers(0, 3, images)
        features = (np.eye(3)[labels] * 2 + rng.normal(size=(images, 3))).astype(np.float32)
        head = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        mended = calibrate(head, features, labels, level=0.95)
        probabilities = mended.predict_proba(features)
        right = int((probabilities.argmax(axis=1) == labels).sum())
        bound = float(probabilities.max(axis=1).mean(dtype=float))
        assert binom.sf(right - 1, images, bound) == pytest.approx(0.05, rel=0.02)
        plain = calibrate(head, features, labels, level=0.5)
        assert plain.temperature == mended.temperature
        assert plain.smoothing < mended.smoothing

    @pytest.mark.parametrize("shift", [0, 1])
    def test_calibration_of_a_head_that_is_always_right_or_wrong(self, shift: int) -> None:
        labels = np.arange(30) % 3
        features = 20 * np.eye(3, dtype=np.float32)[labels]
        head = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        probabilities = calibrate(head, features, (labels + shift) % 3, level=0.95).predict_proba(
            features
        )
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert (probabilities.argmax(axis=1) == labels).all()

    def test_nothing_to_calibrate_on(self) -> None:
        head = Head(np.eye(3, dtype=np.float32), np.zeros(3, np.float32))
        assert (
            calibrate(head, np.empty((0, 3), np.float32), np.empty(0, np.int64), level=0.95) == head
        )


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
