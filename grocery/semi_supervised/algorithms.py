"""The algorithms by the names that params.yaml gives them.

This module alone knows which parameter goes to which estimator, and says in the words of the
pipeline what makes a training set one that cannot be learned from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from grocery.classifier.dataset import UNLABELED
from grocery.core.errors import DataError
from grocery.core.params import TrainParams
from grocery.semi_supervised.base import Integers, SemiSupervisedClassifier
from grocery.semi_supervised.label_propagation import LabelPropagation, LabelSpreading
from grocery.semi_supervised.self_training import SelfTraining

ESTIMATORS: dict[str, type[SemiSupervisedClassifier]] = {
    "supervised": SelfTraining,
    "self_training": SelfTraining,
    "label_propagation": LabelPropagation,
    "label_spreading": LabelSpreading,
}


def make_estimator(
    params: TrainParams, *, points: int, standardize: bool, warn: Callable[[str], None]
) -> SemiSupervisedClassifier:
    """The unfitted estimator that the ``train`` section of params.yaml describes.

    Parameters
    ----------
    points
        Number of training points. In a graph of few points, fewer than `params.n_neighbors` are
        neighbours of a point.
    standardize
        Whether self-training's head, which sees few points at first, scales its features. One that
        is fitted on a graph's labels sees many; both ways can be tried once these are known.
    warn
        Is told in a sentence when there are fewer neighbours than `params.n_neighbors`.
    """
    kind = ESTIMATORS[params.algorithm]
    own = {field.name for field in fields(kind) if field.init}
    given = {name: value for name, value in params.model_dump().items() if name in own}
    if params.algorithm == "supervised":
        given["max_iter"] = 0  # the head of the known labels
    if kind is SelfTraining:
        given["standardize"] = standardize
    elif params.n_neighbors >= points:
        given["n_neighbors"] = points - 1
        warn(
            f"train.n_neighbors is {params.n_neighbors}, but there are only {points} training "
            f"images; {points - 1} is used"
        )
    return kind(**given)


def check_training_set(known: Integers) -> None:
    """Refuse a training set that no estimator can learn from.

    Parameters
    ----------
    known
        Class of each training image whose label is kept, else `UNLABELED`; shape (n,).

    Raises
    ------
    DataError
        When no image has a label, or only one class has one.
    """
    present = np.unique(known[known != UNLABELED])
    if not len(present):
        raise DataError(
            f"none of the {len(known)} training images has a label; label some of each class"
        )
    if len(present) < 2:
        raise DataError(
            "the labelled training images have one class only; a classifier needs at least two"
        )
