"""Turn the features and a few labels into a classifier."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grocery.classifier.curves import curves_in
from grocery.classifier.dataset import UNLABELED, Split, load_splits
from grocery.classifier.fit_head import calibrate, fit_head, most_right
from grocery.classifier.head import KIND
from grocery.classifier.labels import choose_labeled
from grocery.core.arrays import save_arrays
from grocery.core.files import write_json
from grocery.core.params import TrainParams
from grocery.core.stage import Report, reads, writes
from grocery.semi_supervised.algorithms import check_training_set, make_estimator


@dataclass(frozen=True)
class Paths:
    """What the stage reads and writes; of the two metrics, `headline` is what is compared."""

    shards: Path = reads("data/prepared/shards")
    features: Path = reads("data/features")
    classifier: Path = writes("models/classifier")
    curves: Path = writes("metrics/curves")
    metrics: Path = writes("metrics/train.json")
    headline: Path = writes("metrics/headline/train.json")


def run(params: TrainParams, paths: Paths, report: Report) -> dict[str, Any]:
    """Train the head and its labelled-only baseline, and report each iteration.

    Gives the metrics.
    """
    splits, classes, coarse = load_splits(paths.shards, paths.features)
    train, val = splits["train"], splits["val"]
    chosen = choose_labeled(
        train.image_ids,
        train.names,
        ratio=params.labeled_ratio,
        seed=params.label_seed,
        stratified=params.label_draw == "stratified",
    )
    known = np.where(chosen, train.labels, UNLABELED)  # all that the learner sees of labels

    check_training_set(known)
    how: dict[str, Any] = {"classes": len(classes), "C": params.C}
    labeled_only = [
        fit_head(train.features[chosen], known[chosen], **how, standardize=each)
        for each in (False, True)
    ]
    scaled = most_right(labeled_only, val.features, val.labels)
    estimator = make_estimator(
        params, points=len(known), standardize=bool(scaled), warn=report.warn
    )
    with curves_in(paths.curves) as curves:
        numbers = np.arange(len(classes))
        for step in estimator.iter_fit(train.features, known, val.features, classes=numbers):
            adopted = (step.labels != UNLABELED) & ~chosen
            values = {"residual": step.residual, "pseudo_labels": int(adopted.sum())}
            values |= accuracy("val_accuracy", step.validation, val)
            curves.step(values)
            report.step(values)
    if not estimator.converged_:
        report.warn(
            f"{params.algorithm} has not converged: after train.max_iter {params.max_iter} "
            f"iterations labels still move by {step.residual:.2g}, more than train.tol {params.tol}"
        )

    # Features that are whitened and those of a network do not gain by the same scaling.
    other = {**how, "weights": step.weights, "standardize": not estimator.standardize}
    heads = [estimator.head_, fit_head(train.features, step.labels, **other)]
    head, baseline = (
        calibrate(h, val.features, val.labels, level=params.calibration_level)
        for h in (heads[most_right(heads, val.features, val.labels)], labeled_only[scaled])
    )
    result = {
        "labeled": int(chosen.sum()),
        "unlabeled": int((~chosen).sum()),
        "labels_per_class": {name: int((known == n).sum()) for n, name in enumerate(classes)},
        "validation": len(val.labels),
        "labels_used": int(chosen.sum()) + len(val.labels),  # validation chooses and calibrates
        "iterations": estimator.n_iter_,
        "converged": estimator.converged_,
        "residual": step.residual,
        "temperature": head.temperature,
        "smoothing": head.smoothing,
        **accuracy("val_accuracy", head.predict_proba(val.features), val),
        **accuracy("baseline_val_accuracy", baseline.predict_proba(val.features), val),
    }
    # Known to us, not to the learner: how many of the labels it adopted are right.
    checked = adopted & (train.labels != UNLABELED)
    if checked.any():
        result["pseudo_label_accuracy"] = float((step.labels == train.labels)[checked].mean())
    save_arrays(
        paths.classifier,
        KIND,
        head.arrays("head_") | baseline.arrays("baseline_"),
        {"classes": classes, "coarse": coarse, "train": params.model_dump()},
    )
    write_json(paths.metrics, result)
    write_json(paths.headline, {k: v for k, v in result.items() if k == "val_accuracy"})
    return result


def accuracy(name: str, scores: NDArray[Any], split: Split) -> dict[str, float]:
    """Share of a split's images whose highest score is their class; nothing for an empty split."""
    if not len(split.labels):
        return {}
    return {name: float((scores.argmax(axis=1) == split.labels).mean())}
