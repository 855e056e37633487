"""The algorithms by the names that params.yaml gives them.

This module alone knows which parameter goes to which estimator, and says in the words of the
pipeline what makes a training set one that cannot be learned from.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from grocery.classifier.dataset import UNLABELED
from grocery.core.errors import DataError
from grocery.core.params import TrainParams
from grocery.semi_supervised.estimators import Integers, SemiSupervisedClassifier
from grocery.semi_supervised.graph_estimators import LabelPropagation, LabelSpreading
from grocery.semi_supervised.self_training import SelfTraining


def make_estimator(params: TrainParams, *, standardize: bool) -> SemiSupervisedClassifier:
    """The unfitted estimator that the ``train`` section of params.yaml describes.

    `standardize` says how a head scales its features that sees few points at first; one that is
    fitted on a graph's labels always sees many, and scales them.
    """
    if params.algorithm == "supervised":
        # Self-training without an iteration: the head of the known labels.
        return SelfTraining(max_iter=0, C=params.C, standardize=standardize)
    if params.algorithm == "self_training":
        return SelfTraining(
            threshold=params.threshold,
            max_iter=params.max_iter,
            C=params.C,
            standardize=standardize,
        )
    on_graph: dict[str, Any] = {
        "affinity": params.affinity,
        "weight_power": params.weight_power,
        "gamma": params.gamma,
        "n_neighbors": params.n_neighbors,
        "neighbor_search": params.neighbor_search,
        "max_iter": params.max_iter,
        "tol": params.tol,
        "C": params.C,
    }
    if params.algorithm == "label_propagation":
        return LabelPropagation(**on_graph)
    return LabelSpreading(alpha=params.alpha, class_balance=params.class_balance, **on_graph)


def check_training_set(known: Integers, *, params: TrainParams) -> None:
    """Refuse a training set that the estimator of `params` cannot learn from.

    Parameters
    ----------
    known
        Class of each training image whose label is kept, else `UNLABELED`; shape (n,).

    Raises
    ------
    DataError
        When no image has a label, or only one class has one, or the similarity graph would have no
        more images than neighbours.
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
    on_graph = params.algorithm in ("label_propagation", "label_spreading")
    if on_graph and params.n_neighbors >= len(known):
        raise DataError(
            f"train.n_neighbors is {params.n_neighbors}, but there are only {len(known)} training "
            f"images; at most {len(known) - 1} is allowed"
        )
