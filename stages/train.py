"""Turn the features and a few labels into a classifier."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grocery.classifier.dataset import UNLABELED, Split, load_splits
from grocery.classifier.fit_head import calibrate, fit_head, gains_by_scaling
from grocery.classifier.head import KIND
from grocery.classifier.labels import choose_labeled, labels_used
from grocery.core.arrays import save_arrays
from grocery.core.errors import one_sentence
from grocery.core.files import replacing, write_metrics
from grocery.core.params import TrainParams
from grocery.semi_supervised.algorithms import check_training_set, make_estimator
from grocery.settings import load
from grocery.sweep.steering import Steering
from grocery.tracking import artifacts
from grocery.tracking.curves import Curves
from grocery.tracking.run import stage_run

SHARDS = Path("data/prepared/shards")
FEATURES = Path("data/features")
CLASSIFIER = Path("models/classifier")
CURVES = Path("metrics/curves")
METRICS = Path("metrics/train.json")

HEADLINE = ("val_accuracy",)  # the columns of `dvc exp show`


def run(
    params: TrainParams,
    *,
    shards: Path,
    features: Path,
    classifier: Path,
    metrics: Path,
    on_step: Callable[[dict[str, float]], None],
) -> dict[str, Any]:
    """Train the head and its labelled-only baseline, calling `on_step` at each iteration."""
    splits, classes, coarse = load_splits(shards, features)
    train, val = splits["train"], splits["val"]
    chosen = choose_labeled(
        train.image_ids,
        train.names,
        ratio=params.labeled_ratio,
        seed=params.label_seed,
        stratified=params.label_draw == "stratified",
    )
    known = np.where(chosen, train.labels, UNLABELED)

    check_training_set(known, params=params)
    labeled_only = (train.features[chosen], known[chosen])
    how: dict[str, Any] = {"classes": len(classes), "C": params.C}
    scaled = gains_by_scaling(*labeled_only, val.features, val.labels, **how)
    estimator = make_estimator(params, standardize=scaled)
    numbers = np.arange(len(classes))
    for step in estimator.iter_fit(train.features, known, val.features, classes=numbers):
        adopted = (step.labels != UNLABELED) & ~chosen
        on_step(
            {"residual": step.residual, "pseudo_labels": int(adopted.sum())}
            | accuracy("val_accuracy", step.validation, val)
        )

    baseline = fit_head(*labeled_only, **how, standardize=scaled)
    head, baseline = (
        calibrate(h, val.features, val.labels, level=params.calibration_level)
        for h in (estimator.head_, baseline)
    )

    result = {
        "labeled": int(chosen.sum()),
        "unlabeled": int((~chosen).sum()),
        "labels_used": labels_used(chosen, val.labels),
        "iterations": estimator.n_iter_,
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
    with replacing(classifier) as partial:
        save_arrays(
            partial,
            KIND,
            head.arrays("head_") | baseline.arrays("baseline_"),
            {"classes": classes, "coarse": coarse, "algorithm": params.algorithm},
        )
    write_metrics(metrics, result, HEADLINE)
    return result


def accuracy(name: str, scores: NDArray[Any], split: Split) -> dict[str, float]:
    """Share of a split's images whose highest score is their class; nothing for an empty split."""
    if not len(split.labels):
        return {}
    return {name: float((scores.argmax(axis=1) == split.labels).mean())}


def main() -> None:
    """Run the stage on the paths of dvc.yaml."""
    with one_sentence("train"):
        params = load()
        with stage_run(
            "train",
            settings=params.tracking,
            config={"train": params.train.model_dump()},
            inputs={artifacts.DATASET: SHARDS, artifacts.FEATURES: FEATURES},
            tags=[params.data.source, params.train.algorithm],
        ) as tracked:
            with Curves(CURVES) as curves, Steering() as steering:
                numbers = count()

                def on_step(values: dict[str, float]) -> None:
                    curves.step(values)
                    tracked.log(values, step=next(numbers))
                    steering.step(values)

                result = run(
                    params.train,
                    shards=SHARDS,
                    features=FEATURES,
                    classifier=CLASSIFIER,
                    metrics=METRICS,
                    on_step=on_step,
                )
            tracked.summary(result)
            metadata = result | params.train.model_dump()
            tracked.artifact(artifacts.CLASSIFIER, CLASSIFIER, metadata)


if __name__ == "__main__":
    main()
