import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from conftest import ROOT
from grocery.classifier.dataset import UNLABELED
from grocery.classifier.fit_head import calibrate, fit_head, most_right
from grocery.classifier.head import Head
from grocery.classifier.labels import choose_labeled
from grocery.core.errors import DataError
from grocery.core.linear import unit_length
from grocery.features.fit_encoder import fit_sample
from grocery.semi_supervised.algorithms import check_training_set, make_estimator
from grocery.semi_supervised.base import SemiSupervisedClassifier
from grocery.semi_supervised.label_propagation import LabelPropagation, LabelSpreading
from grocery.semi_supervised.self_training import SelfTraining
from grocery.settings import load
from samples import image_row, shard_files

IDS = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(200)]
LABELS: list[str | None] = [["apple", "pear", None][i % 3] for i in range(200)]

FEW = {"n_neighbors": 5, "max_iter": 50, "threshold": 0.7}
TRAIN = load(ROOT / "params.yaml").train.model_copy(update=FEW)


class TestLabels:
    def test_draws_are_nested_and_each_class_keeps_its_share(self) -> None:
        """At least one image, and never one without a label."""
        last = np.zeros(len(IDS), bool)
        for ratio in (1e-6, 0.1, 0.3, 1.0):
            chosen = choose_labeled(IDS, LABELS, ratio=ratio, seed=0)
            assert (last <= chosen).all()
            kept = Counter(np.array(LABELS)[chosen])
            assert kept == {n: max(1, round(ratio * LABELS.count(n))) for n in ("apple", "pear")}
            last = chosen
        # The seed matters, and the order of the images does not.
        first, second = (choose_labeled(IDS, LABELS, ratio=0.2, seed=s) for s in (0, 1))
        assert (first != second).any()
        order = np.random.default_rng(0).permutation(len(IDS))
        ids, labels = [IDS[i] for i in order], [LABELS[i] for i in order]
        assert (choose_labeled(ids, labels, ratio=0.2, seed=0) == first[order]).all()

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

    def test_the_encoders_sample_is_another_draw(self, tmp_path: Path) -> None:
        """Of the same images by the same seed, and yet half of it is labelled where half are."""
        params = load(ROOT / "params.yaml").featurize.model_copy(update={"fit_images": 100})
        assert params.seed == 0
        rows = [image_row(b"", "", None, image_id=image_id) for image_id in IDS]
        sample = fit_sample(shard_files(tmp_path / "shards", rows, 1), params)
        chosen = choose_labeled(IDS, ["apple"] * 200, ratio=0.5, seed=0)
        assert len(sample) == chosen.sum() == 100
        # Hypergeometric: 50, with a standard deviation of 3.5.
        assert 36 <= len(sample & {IDS[i] for i in np.flatnonzero(chosen)}) <= 64


# Three classes of three modes each, on the unit sphere.
RNG = np.random.default_rng(0)
MODES, MODE = RNG.normal(size=(9, 16)), RNG.integers(9, size=300)
POINTS = unit_length((MODES[MODE] + 0.35 * RNG.normal(size=(300, 16))).astype(np.float32))
TRUTH = MODE % 3

KINDS: dict[str, type[SemiSupervisedClassifier]] = {
    "supervised": SelfTraining,
    "self_training": SelfTraining,
    "label_propagation": LabelPropagation,
    "label_spreading": LabelSpreading,
}


def made(
    points: int, *, standardize: bool = False, warn: Any = pytest.fail, **changes: Any
) -> SemiSupervisedClassifier:
    """The estimator that the parameters of few points describe."""
    params = TRAIN.model_copy(update=changes)
    return make_estimator(params, points=points, standardize=standardize, warn=warn)


class TestAlgorithms:
    @pytest.mark.parametrize("algorithm", KINDS)
    @pytest.mark.parametrize("labelled", [2, 3])
    def test_a_class_with_no_label_is_never_predicted(self, algorithm: str, labelled: int) -> None:
        """And the others as they would be without it."""
        names = np.array([0, 2, 3])[TRUTH]  # of the classes 0 to 4
        known = np.where((np.arange(300) < 90) & (labelled > TRUTH), names, UNLABELED)
        estimator, without = made(300, algorithm=algorithm), made(300, algorithm=algorithm)
        *_, last = estimator.iter_fit(POINTS, known, POINTS[250:], classes=np.arange(5))
        taught = [0, 2, 3][:labelled]
        assert set(last.labels.tolist()) <= {*taught, UNLABELED}
        assert last.validation.shape == (50, 5)
        head = calibrate(estimator.head_, POINTS[250:], names[250:], level=0.95)
        assert set(head.predict_proba(POINTS).argmax(axis=1).tolist()) == set(taught)

        *_, other = without.iter_fit(POINTS, known, POINTS[250:])
        assert (estimator.transduction_ == without.transduction_).all()
        of_all, of_taught = last.validation.argmax(axis=1), other.validation.argmax(axis=1)
        assert (estimator.classes_[of_all] == without.classes_[of_taught]).all()

    @pytest.mark.parametrize("scaled", [False, True])
    @pytest.mark.parametrize(("algorithm", "kind"), KINDS.items())
    def test_params_name_an_estimator_and_give_it_all_that_it_knows(
        self, algorithm: str, kind: type[SemiSupervisedClassifier], scaled: bool
    ) -> None:
        """To scale or not is the choice of a head that sees few; defaults are params.yaml's."""
        other = {"C": 2.0, "threshold": 0.6, "affinity": "rbf", "gamma": 2.0, "max_iter": 7}
        other |= {"neighbor_search": "exact", "tol": 0.1, "alpha": 0.5, "class_balance": False}
        other |= {"weight_power": 1.0, "algorithm": algorithm}
        found = made(6, standardize=scaled, **other)
        assert type(found) is kind
        given = TRAIN.model_dump() | other
        given |= {"standardize": scaled if kind is SelfTraining else True}
        given |= {"max_iter": 0} if algorithm == "supervised" else {}
        assert found.get_params() == {name: given[name] for name in found.get_params()}
        if algorithm != "supervised":
            params = load(ROOT / "params.yaml").train.model_dump()
            params["standardize"] = kind is not SelfTraining
            assert {name: params[name] for name in found.get_params()} == kind().get_params()

    def test_a_graph_of_few_images_has_fewer_neighbours(self) -> None:
        known = np.where(np.arange(8) < 5, TRUTH[:8], UNLABELED)
        for wanted in (8, 10):
            said: list[str] = []
            estimator = made(8, n_neighbors=wanted, warn=said.append)
            used = "but there are only 8 training images; 7 is used"
            assert said == [f"train.n_neighbors is {wanted}, {used}"]
            *_, last = estimator.iter_fit(POINTS[:8], known, POINTS[:1])
            assert (last.labels != UNLABELED).all()
        assert made(8, n_neighbors=10, algorithm="supervised")  # which has no graph


def test_what_cannot_be_learned_from() -> None:
    with pytest.raises(DataError, match="none of the 60 training images has a label; label some"):
        check_training_set(np.full(60, UNLABELED))
    with pytest.raises(DataError, match="the labelled training images have one class only"):
        check_training_set(np.array([0, 0, UNLABELED]))
    check_training_set(np.array([UNLABELED, 1, 0]))  # two classes are enough
    with pytest.raises(DataError, match="fewer than two classes"):
        fit_head(POINTS, TRUTH, classes=3, C=1.0, weights=(TRUTH == 1).astype(float))


EYE = np.eye(3, dtype=np.float32)
PLAIN = Head(EYE, np.zeros(3, np.float32))  # whose logits are the features


class TestHead:
    @pytest.mark.filterwarnings("error:The number of unique classes")
    def test_one_label_a_class(self) -> None:
        """scikit-learn would take it for a regression, and warn."""
        assert fit_head(np.eye(30, dtype=np.float32), np.arange(30), classes=30, C=10.0)

    @pytest.mark.parametrize("scaled", [False, True])
    def test_what_weighs_nothing_is_nothing_and_what_weighs_two_is_two(self, scaled: bool) -> None:
        how: dict[str, Any] = {"classes": 3, "C": 10.0, "standardize": scaled}
        third = np.arange(300) // 100
        found = fit_head(POINTS, TRUTH, weights=np.where(third == 0, 0.0, 2.0), **how)
        twice = [np.concatenate([a[100:]] * 2) for a in (POINTS, TRUTH)]
        heads = (found, fit_head(*twice, **how), fit_head(POINTS[100:], TRUTH[100:], **how))
        weighted, doubled, single = (head.predict_proba(POINTS) for head in heads)
        np.testing.assert_allclose(weighted, doubled, atol=1e-2)
        assert np.abs(weighted - single).max() > 0.02

    def test_a_constant_feature_is_left_alone(self) -> None:
        """0.1 in double precision has a deviation that is all rounding."""
        right = []
        for given in (POINTS, np.hstack([POINTS.astype(float), np.full((300, 1), 0.1)])):
            head = fit_head(given, TRUTH, classes=3, C=10.0, standardize=True)
            right.append((head.predict_proba(given).argmax(axis=1) == TRUTH).mean())
        assert right[1] >= right[0] - 0.01

    def test_most_right(self) -> None:
        wrong, labels = replace(PLAIN, coefficients=-EYE), np.arange(3)
        assert most_right([PLAIN, wrong], EYE, labels) == 0
        assert most_right([wrong, PLAIN, PLAIN], EYE, labels) == 1  # the first of equals
        assert most_right([wrong, PLAIN], EYE[:0], labels[:0]) == 0

    def test_standardised_is_regularised_as_standard_scores(self) -> None:
        points = POINTS * np.geomspace(1, 100, 16, dtype=np.float32)
        head = fit_head(points, TRUTH, classes=3, C=10.0, standardize=True)
        regression = LogisticRegression(C=10.0 / 16, max_iter=2000, tol=1e-6)
        peer = make_pipeline(StandardScaler(with_mean=False), regression).fit(points, TRUTH)
        found, expected = (model.predict_proba(points) for model in (head, peer))
        np.testing.assert_allclose(found, expected, atol=1e-2)

    def test_calibration_finds_the_temperature_and_the_smoothing(self) -> None:
        rng = np.random.default_rng(0)
        features = rng.normal(size=(20_000, 3)).astype(np.float32)
        labels = (features + rng.gumbel(size=features.shape)).argmax(axis=1)  # drawn as PLAIN says
        hot = calibrate(replace(PLAIN, coefficients=4 * EYE), features, labels, level=0.5)
        assert hot.temperature == pytest.approx(4, rel=0.1)
        assert hot.smoothing == pytest.approx(0, abs=0.03)
        # Of blind mistakes, a tenth of the images, the logits say nothing.
        labels = rng.integers(0, 3, 4000)
        features = EYE[labels] * 20
        blind = rng.random(4000) < 0.1
        labels[blind] = rng.integers(0, 3, blind.sum())
        smooth = calibrate(PLAIN, features, labels, level=0.5)
        assert smooth.smoothing == pytest.approx(0.1, abs=0.02)

    @pytest.mark.parametrize("images", [40, 4000])
    def test_confidence_is_what_the_images_prove(self, images: int) -> None:
        """The mean confidence is the exact lower bound: a binomial test would not refuse it."""
        rng = np.random.default_rng(images)
        labels = rng.integers(0, 3, images)
        features = (np.eye(3)[labels] * 2 + rng.normal(size=(images, 3))).astype(np.float32)
        mended = calibrate(PLAIN, features, labels, level=0.95)
        probabilities = mended.predict_proba(features)
        right = int((probabilities.argmax(axis=1) == labels).sum())
        bound = float(probabilities.max(axis=1).mean(dtype=float))
        assert binom.sf(right - 1, images, bound) == pytest.approx(0.05, rel=0.02)
        plain = calibrate(PLAIN, features, labels, level=0.5)
        assert plain.temperature == mended.temperature
        assert plain.smoothing < mended.smoothing

    @pytest.mark.parametrize("shift", [0, 1])
    def test_calibration_of_a_head_that_is_always_right_or_wrong(self, shift: int) -> None:
        labels = np.arange(30) % 3
        features = 20 * EYE[labels]
        mended = calibrate(PLAIN, features, (labels + shift) % 3, level=0.95)
        probabilities = mended.predict_proba(features)
        assert np.isfinite(probabilities).all()
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
        assert (probabilities.argmax(axis=1) == labels).all()
        assert calibrate(PLAIN, features[:0], labels[:0], level=0.95) == PLAIN
