"""The estimators: scikit-learn's conventions, and scikit-learn's results where options coincide."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn import semi_supervised
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

from grocery.classifier.fit_head import fit_head
from grocery.semi_supervised.base import SemiSupervisedClassifier
from grocery.semi_supervised.label_propagation import LabelPropagation, LabelSpreading, certainty
from grocery.semi_supervised.self_training import SelfTraining

# Handwritten digits (600, 64), their classes, and the tenth that is known.
POINTS, TRUTH = (array[:600] for array in load_digits(return_X_y=True))
POINTS = POINTS / 16
KNOWN = np.where(np.random.default_rng(0).random(600) < 0.1, TRUTH, -1)
for shared in (POINTS, TRUTH, KNOWN):
    shared.flags.writeable = False

NOT_MET = {
    "check_non_transformer_estimators_n_iter": (
        "with no unlabelled point there is no iteration, as in SelfTrainingClassifier"
    ),
    "check_classifiers_classes": (
        "it uses -1 as a class, which marks an unlabelled point here; scikit-learn's own are "
        "spared by name, and so is this one in the test below"
    ),
}


# The checks fit as few as ten points, so ten neighbours would be too many.
ON_GRAPHS = [LabelPropagation(n_neighbors=5, affinity="rbf"), LabelSpreading(n_neighbors=5)]
conventions: pytest.MarkDecorator = parametrize_with_checks(
    [*ON_GRAPHS, SelfTraining()],
    expected_failed_checks=lambda made: NOT_MET if isinstance(made, SelfTraining) else {},
)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@conventions
def test_conventions(
    estimator: SemiSupervisedClassifier, check: Callable[[SemiSupervisedClassifier], None]
) -> None:
    check(estimator)


def test_classes_of_any_type() -> None:
    """The check that `NOT_MET` names, without -1 as a class."""
    check_classifiers_classes("SelfTrainingClassifier", SelfTraining())


class TestAsScikitLearn:
    """What they compute is the same; the head keeps its coefficients in single precision."""

    def test_on_mutual_neighbours(self) -> None:
        """Those of a ring. Scikit-learn counts a point among its own, so it gets one more."""
        angles = np.arange(60) * 2 * np.pi / 60
        points = np.column_stack([np.cos(angles), np.sin(angles)])
        known = np.full(60, -1)
        known[[0, 7]], known[[25, 40, 41]], known[50] = 0, 1, 2
        both: dict[str, Any] = {"max_iter": 10_000, "tol": 1e-12}
        own = both | {"affinity": "uniform", "n_neighbors": 4}
        other = both | {"kernel": "knn", "n_neighbors": 5}
        spreading = LabelSpreading(alpha=0.8, class_balance=False, **own)
        peer = semi_supervised.LabelSpreading(alpha=0.8, **other)
        propagation = semi_supervised.LabelPropagation(**other)
        for ours, theirs in ((spreading, peer), (LabelPropagation(**own), propagation)):
            found = ours.fit(points, known).label_distributions_
            expected = theirs.fit(points, known).label_distributions_
            np.testing.assert_allclose(found, expected, atol=1e-6)
            assert (ours.transduction_ == theirs.transduction_).all()

    @pytest.mark.parametrize(
        ("threshold", "max_iter", "ends"),
        [
            (0.75, 10, "no_change"),
            (0.9, 3, "max_iter"),
            (0.0, 10, "all_labeled"),
            (0.75, 0, "max_iter"),
        ],
    )
    def test_self_training(self, threshold: float, max_iter: int, ends: str) -> None:
        options: dict[str, Any] = {"threshold": threshold, "max_iter": max_iter}
        ours = SelfTraining(C=10.0, **options)
        *_, last = ours.iter_fit(POINTS, KNOWN)
        head = LogisticRegression(C=10.0, max_iter=500)
        theirs = semi_supervised.SelfTrainingClassifier(head, **options).fit(POINTS, KNOWN)
        for name in ("transduction_", "labeled_iter_", "n_iter_", "termination_condition_"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
        assert ours.termination_condition_ == ends
        assert (last.labels == ours.transduction_).all()
        assert (last.weights == (last.labels != -1)).all()
        found, expected = (model.predict_proba(POINTS) for model in (ours, theirs))
        np.testing.assert_allclose(found, expected, atol=1e-5)


ESTIMATORS = [LabelPropagation(), LabelSpreading(), SelfTraining(threshold=0.5)]


class TestSteps:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_the_steps_are_what_fit_does(self, estimator: SemiSupervisedClassifier) -> None:
        fitted = clone(estimator).fit(POINTS, KNOWN)
        stepped = clone(estimator).fit(POINTS[:60], TRUTH[:60])  # of which nothing is left
        walk = stepped.iter_fit(POINTS, KNOWN, POINTS[:7])
        with pytest.raises(NotFittedError):
            stepped.predict(POINTS)
        steps = [(step, stepped.converged_) for step in walk]
        assert stepped.head_.coefficients.tobytes() == fitted.head_.coefficients.tobytes()
        assert (stepped.transduction_ == fitted.transduction_).all()
        # Self-training begins with a step of its own: where it stands before the first iteration.
        assert len(steps) == fitted.n_iter_ + isinstance(estimator, SelfTraining)
        for step, _ in steps:
            assert step.validation.shape == (7, 10)
            assert (step.labels == KNOWN)[KNOWN != -1].all()
            assert (step.weights[KNOWN != -1] == 1).all()
        if not isinstance(estimator, SelfTraining):  # which says so at the end
            assert [converged for _, converged in steps] == [False] * (len(steps) - 1) + [True]

    def test_the_scores_of_validation_are_the_neighbours_distributions(self) -> None:
        estimator, held = LabelSpreading(), POINTS[400:]
        *_, last = estimator.iter_fit(POINTS[:400], KNOWN[:400], held)
        np.testing.assert_allclose(last.validation.sum(axis=1), 1)
        assert (last.validation.argmax(axis=1) == TRUTH[400:]).mean() > 0.85
        *_, last = estimator.iter_fit(POINTS, KNOWN, held[:0])
        assert last.validation.shape == (0, 10)


class TestOnAGraph:
    @pytest.mark.parametrize("precision", [np.float64, np.float32])
    def test_an_island_gets_no_label(self, precision: Any) -> None:
        """And the distributions have the precision of the points."""
        rng = np.random.default_rng(0)
        points = np.concatenate([rng.normal(c, 0.01, (8, 3)) for c in (0, 9, 90)])
        known = np.full(24, -1)
        known[[0, 8]] = 3, 5
        spreading = LabelSpreading(affinity="uniform", n_neighbors=4)
        fitted = spreading.fit(points.astype(precision), known)
        assert fitted.transduction_.tolist() == [3] * 8 + [5] * 8 + [-1] * 8
        assert fitted.label_distributions_[16:].sum() == 0
        assert fitted.label_distributions_.dtype == precision

    def test_class_balance_starts_every_class_with_the_same_mass(self) -> None:
        """As if the one label of a class counted as much as all of another class together."""
        known = KNOWN.copy()
        known[np.flatnonzero(known == 1)[1:]] = -1
        seeds = np.eye(10)[np.maximum(known, 0)] * (known != -1)[:, None]
        counts = seeds.sum(axis=0)
        assert counts.max() > 5 * counts[1] == 5
        graph = LabelSpreading().graph(POINTS)
        *_, (_, balanced) = LabelSpreading().walk(graph, seeds)
        *_, (_, plain) = LabelSpreading(class_balance=False).walk(graph, seeds / counts)
        np.testing.assert_allclose(balanced, plain, atol=1e-12)

    @pytest.mark.parametrize("estimator", [LabelPropagation(), LabelSpreading()])
    def test_adopted_labels_weigh_what_they_are_certain(self, estimator: Any) -> None:
        labelled, known = KNOWN != -1, KNOWN.copy()
        wrong = np.flatnonzero(labelled)[:9]  # spreading contradicts some, the head must not
        known[wrong] = 9 - TRUTH[wrong]
        estimator = clone(estimator).set_params(C=3.0, standardize=False)
        *_, last = estimator.iter_fit(POINTS, known)
        transduced = estimator.label_distributions_.argmax(axis=1)
        assert isinstance(estimator, LabelPropagation) or (transduced != known)[wrong].any()
        certain = certainty(estimator.label_distributions_)
        assert certain[~labelled].min() < 0.5
        weights = np.where(labelled, 1, certain)
        assert (last.weights == weights).all()
        labels = np.where(labelled, known, transduced)
        assert (last.labels == labels).all()
        head = fit_head(POINTS, labels, classes=10, C=3.0, weights=weights)
        assert estimator.head_.coefficients.tobytes() == head.coefficients.tobytes()


@pytest.mark.parametrize(
    ("estimator", "converged"),
    [
        *((kind(max_iter=2), False) for kind in (LabelSpreading, LabelPropagation, SelfTraining)),
        (LabelSpreading(tol=2.0, max_iter=1), True),
        (SelfTraining(threshold=0.0, max_iter=1), True),  # has no point left to label
        (SelfTraining(max_iter=0), True),  # was asked for no iteration
    ],
    ids=str,
)
def test_what_is_cut_off_has_not_converged(
    estimator: SemiSupervisedClassifier, converged: bool, recwarn: pytest.WarningsRecorder
) -> None:
    estimator.fit(POINTS, KNOWN)
    assert (estimator.converged_, estimator.n_iter_) == (converged, estimator.max_iter)
    said = [(warning.category, str(warning.message)) for warning in recwarn]
    sentence = "max_iter=2 was reached without convergence"
    assert said == ([] if converged else [(ConvergenceWarning, sentence)])


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_classes_that_are_words_or_of_a_type_without_minus_one(estimator: Any) -> None:
    words = np.array([f"digit {i}" for i in range(10)], dtype=object)
    fitted = clone(estimator).fit(POINTS, np.where(KNOWN == -1, -1, words[KNOWN]))
    assert fitted.classes_.tolist() == words.tolist()
    assert (fitted.predict(POINTS) == words[TRUTH]).mean() > 0.8
    assert set(fitted.transduction_) <= {-1, *words}
    for kind in (np.uint8, np.bool_):
        classes = (TRUTH % 2).astype(kind)
        fitted = clone(estimator).fit(POINTS, classes)
        assert fitted.transduction_.dtype == classes.dtype
        assert (fitted.transduction_ == classes).mean() > 0.9


class TestBadInput:
    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_labels(self, estimator: SemiSupervisedClassifier) -> None:
        with pytest.raises(ValueError, match="y holds no label"):
            clone(estimator).fit(POINTS, np.full(600, -1))
        with pytest.raises(ValueError, match="y holds one class only, 0"):
            clone(estimator).fit(POINTS, np.minimum(KNOWN, 0))
        with pytest.raises(ValueError, match="not among `classes`"):
            clone(estimator).iter_fit(POINTS, KNOWN, classes=[0, 1])
        with pytest.raises(ValueError, match="the string '-1'"):
            clone(estimator).fit([[0, 1], [1, 0], [1, 1]], ["a", "b", -1])

    def test_points(self) -> None:
        """No more than neighbours, and validation of other features."""
        with pytest.raises(ValueError, match="only 600 samples; at most 599 is allowed"):
            LabelPropagation(n_neighbors=600).fit(POINTS, KNOWN)
        with pytest.raises(ValueError, match="3 features, but LabelSpreading is expecting 64"):
            LabelSpreading().iter_fit(POINTS, KNOWN, np.ones((4, 3)))

    @pytest.mark.parametrize(
        "estimator",
        [
            LabelSpreading(alpha=1.0),
            LabelSpreading(alpha=0.0),
            LabelSpreading(affinity="knn"),
            LabelPropagation(n_neighbors=0),
            LabelPropagation(max_iter=0),
            LabelPropagation(weight_power=0.0),
            SelfTraining(threshold=1.0),
            SelfTraining(max_iter=-1),
            SelfTraining(C=0.0),
        ],
        ids=str,
    )
    def test_parameters(self, estimator: SemiSupervisedClassifier) -> None:
        with pytest.raises(ValueError, match=r"The '\w+' parameter of \w+ must be"):
            estimator.fit(POINTS, KNOWN)
