"""The semi-supervised algorithms, each a walk that ends in labels and weights for the head.

An algorithm is a generator of `Step`. The stage that drives it logs every step; the last one holds
what the deployable head is fitted on. This module alone knows which algorithm takes which
parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grocery.learning.dataset import UNLABELED
from grocery.learning.fit_head import fit_head
from grocery.learning.graph import neighbour_weights, row_normalised, similarity_graph
from grocery.learning.spreading import certainty, label_propagation, label_spreading
from grocery.params import TrainParams

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Step:
    """Where an algorithm stands after an iteration.

    Attributes
    ----------
    labels
        Class of each training image (n,), known or adopted; `UNLABELED` where there is none.
    weights
        How certain each label is (n,), from 0 to 1; known labels weigh 1.
    residual
        By how much the labels moved in this iteration, a point.
    validation
        Class scores (v, c) that the algorithm itself gives to the validation images.
    """

    labels: Integers
    weights: Doubles
    residual: float
    validation: Doubles


def steps(
    features: Floats, known: Integers, validation: Floats, *, classes: int, params: TrainParams
) -> Iterator[Step]:
    """Run the algorithm that `params` name.

    Parameters
    ----------
    features
        Unit vectors of all training images, shape (n, d).
    known
        Class of each training image whose label is kept, else `UNLABELED`; shape (n,).
    validation
        Unit vectors of the validation images, shape (v, d).
    classes
        Number of classes.
    params
        The ``train`` section of params.yaml.
    """
    if params.algorithm == "supervised":
        yield from _supervised(features, known, validation, classes, params)
    elif params.algorithm == "self_training":
        yield from _self_training(features, known, validation, classes, params)
    else:
        yield from _on_graph(features, known, validation, classes, params)


def _supervised(
    features: Floats, known: Integers, validation: Floats, classes: int, params: TrainParams
) -> Iterator[Step]:
    labeled = known != UNLABELED
    head = fit_head(features[labeled], known[labeled], classes=classes, C=params.C)
    scores = head.predict_proba(validation).astype(np.float64)
    yield Step(known, labeled.astype(np.float64), 0.0, scores)


def _self_training(
    features: Floats, known: Integers, validation: Floats, classes: int, params: TrainParams
) -> Iterator[Step]:
    """Fit, adopt the confident predictions as labels, and fit again.

    Yarowsky, "Unsupervised word sense disambiguation rivaling supervised methods" (ACL 1995). An
    adopted label is kept, as in scikit-learn's SelfTrainingClassifier.
    """
    labels = known.copy()
    for _ in range(params.max_iter):
        used = labels != UNLABELED
        head = fit_head(features[used], labels[used], classes=classes, C=params.C)
        scores = head.predict_proba(validation).astype(np.float64)
        probabilities = head.predict_proba(features)
        adopted = ~used & (probabilities.max(axis=1) >= params.threshold)
        labels = np.where(adopted, probabilities.argmax(axis=1), labels)
        weights = (labels != UNLABELED).astype(np.float64)
        yield Step(labels, weights, float(adopted.mean()), scores)
        if not adopted.any():
            return


def _on_graph(
    features: Floats, known: Integers, validation: Floats, classes: int, params: TrainParams
) -> Iterator[Step]:
    labeled = known != UNLABELED
    seeds = np.zeros((len(known), classes))
    seeds[labeled, known[labeled]] = 1
    graph = similarity_graph(
        features, n_neighbors=params.n_neighbors, weight_power=params.weight_power
    )
    to_validation = row_normalised(
        neighbour_weights(
            validation,
            features,
            n_neighbors=params.n_neighbors,
            weight_power=params.weight_power,
        )
    )
    if params.algorithm == "label_propagation":
        walk = label_propagation(graph, seeds, max_iter=params.max_iter, tol=params.tol)
    else:
        if params.class_balance:
            seeds /= np.maximum(seeds.sum(axis=0), 1)
        walk = label_spreading(
            graph, seeds, alpha=params.alpha, max_iter=params.max_iter, tol=params.tol
        )
    for spread in walk:
        reached = spread.distributions.sum(axis=1) > 0
        adopted = np.where(reached, spread.distributions.argmax(axis=1), UNLABELED)
        labels = np.where(labeled, known, adopted)
        weights = np.where(labeled, 1.0, certainty(spread.distributions))
        scores = to_validation @ spread.distributions
        yield Step(labels, weights, spread.residual, scores)
